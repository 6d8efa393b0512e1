"""Helpers of tests whose asserts should show what differs."""

import pytest

pytest.register_assert_rewrite("tests.rewriting", "tests.onnx.suite", "tests.opinfo.harness")
