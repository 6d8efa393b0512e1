"""The search for a match."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hardy.compiler.ir import Node, Value
from hardy.compiler.matching.match import Match
from hardy.compiler.matching.terms import Apply, Capture, Goals, Term


class Search:
    """One attempt to match: a depth-first search over the orders of commutative operands."""

    def __init__(
        self,
        root: Node,
        uses: Mapping[Value, int],
        shares: bool,
        check: Callable[[Match], bool | str],
        explain: bool = False,
    ) -> None:
        self.shares = shares
        self.check = check
        self.root = root
        self.uses = uses
        self.values: dict[str, Value] = {}
        self.attributes: dict[str, Any] = {}
        self.terms: dict[Apply, Value] = {}
        self.explain = explain
        self.deepest = (-1, "", root)
        self.found: Match | None = None

    def run(self, term: Term) -> Match | None:
        return self.found if self.solve((term, Value(self.root, 0), None)) else None

    def solve(self, goals: Goals) -> bool:
        if goals is None:
            return self._accept()
        term, value, rest = goals
        return term.match(self, value, rest)

    def fail(self, reason: str, value: Value) -> bool:
        if self.explain and len(self.terms) + len(self.values) > self.deepest[0]:
            self.deepest = (len(self.terms) + len(self.values), reason, value.node)
        return False

    def bind(self, name: str, attribute: Any, value: Value, rest: Goals) -> bool:
        return self.bind_attributes(
            ((name, Capture(name)),), value, lambda: self.solve(rest), {name: attribute}
        )

    def bind_attributes(
        self,
        wanted: tuple[tuple[str, Any], ...],
        value: Value,
        then: Callable[[], bool],
        given: Mapping[str, Any] | None = None,
    ) -> bool:
        """Check and capture attributes, then go on; undo what was captured where that fails."""
        captured: list[str] = []
        if self._check_attributes(wanted, value, given, captured) and then():
            return True
        for name in captured:
            del self.attributes[name]
        return False

    def _check_attributes(
        self,
        wanted: tuple[tuple[str, Any], ...],
        value: Value,
        given: Mapping[str, Any] | None,
        captured: list[str],
    ) -> bool:
        for key, expected in wanted:
            actual = given[key] if given else getattr(value.node.op, key)
            predicate = expected.predicate if isinstance(expected, Capture) else expected
            if callable(predicate):
                if not predicate(actual):
                    return self.fail(f"{key}={actual!r} does not fit", value)
            elif not isinstance(expected, Capture) and actual != expected:
                return self.fail(f"expected {key}={expected!r}, got {actual!r}", value)
            if isinstance(expected, Capture):
                if expected.name not in self.attributes:
                    self.attributes[expected.name] = actual
                    captured.append(expected.name)
                elif self.attributes[expected.name] != actual:
                    before = self.attributes[expected.name]
                    return self.fail(f"{expected.name} is both {before!r} and {actual!r}", value)
        return True

    def _accept(self) -> bool:
        nodes = {v.node for v in self.terms.values()}
        if not self.shares:
            inside: dict[Value, int] = {}
            for node in nodes:
                for v in node.operands:
                    inside[v] = inside.get(v, 0) + 1
            for node in nodes:
                if node is self.root:
                    continue
                for v in node.values:
                    if self.uses.get(v, 0) != inside.get(v, 0):
                        return self.fail(f"the result of {node.op.name} is needed outside of the pattern", v)
        match = Match(
            self.root,
            dict(self.values),
            dict(self.attributes),
            {t.name: v.node for t, v in self.terms.items() if t.name},
            self.uses,
        )
        verdict = self.check(match)
        if verdict is not True:
            return self.fail(verdict or "the rule's own check refuses", Value(self.root, 0))
        self.found = match
        return True
