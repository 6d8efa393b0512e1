"""Instruction sets: names, what the host lacks, what LLVM is told."""

import pytest

from hardy.compiler.errors import TargetError
from hardy.targets.cpu import isa as module
from hardy.targets.cpu.isa import by_name, host, missing_on_host


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Pretends to be a machine with the given flags."""

    def pretend(flags, arch="x86_64", key="flags"):
        info = tmp_path / "cpuinfo"
        info.write_text(f"processor\t: 0\n{key}\t\t: {flags}\n")
        monkeypatch.setattr(module, "CPUINFO", info)
        monkeypatch.setattr(module.platform, "machine", lambda: arch)

    return pretend


AVX2 = "avx avx2 fma f16c"
AVX512 = AVX2 + " avx512f avx512bw avx512dq avx512vl avx512cd"


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (AVX512 + " avx512_vnni amx_tile amx_int8 amx_bf16", "avx512+vnni+amx"),
        (AVX512 + " avx512_vnni", "avx512+vnni"),
        (AVX512 + " avx512_vpopcntdq avx512_vnni", "avx512+vnni+vpopcntdq"),
        (AVX512, "avx512"),
        (AVX2 + " avx512f", "avx2"),
        ("sse sse2", "portable"),
    ],
)
def test_host_is_the_best_set_whose_flags_are_all_there(machine, flags, name):
    machine(flags)
    assert host().name == name


def test_host_of_an_arm_machine_is_neon(machine):
    machine("fp asimd", "aarch64", "Features")
    assert host().name == "neon"
    assert missing_on_host(by_name("avx2")) == ["x86_64"]
    assert by_name("portable").target()["mtriple"] == "aarch64-unknown-linux-gnu"


def test_missing_names_the_flags(machine):
    machine(AVX2)
    assert missing_on_host(by_name("avx2")) == []
    assert "avx512_vnni" in missing_on_host(by_name("avx512+vnni"))


def test_names_round_trip_and_features_have_one_order():
    assert by_name("avx512+amx+vnni") == by_name("avx512+vnni+amx")
    for name in ("avx512", "avx512+vnni", "avx2", "neon", "portable"):
        assert by_name(name).name == name


@pytest.mark.parametrize("name", ["sse9", "avx2+vnni", "avx512+sve", ""])
def test_unknown_names_are_refused(name):
    with pytest.raises(TargetError):
        by_name(name)


def test_llvm_is_told_every_feature_and_no_processor_name():
    target = by_name("avx512+vnni+vpopcntdq").target()
    assert target["mcpu"] == "x86-64"
    assert {"+avx512f", "+avx512vnni", "+avx512vpopcntdq"} <= set(target["mattr"])
