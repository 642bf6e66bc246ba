"""The command line: what is ours, what goes to pytest, and which machines it names."""

from __future__ import annotations

import pytest

from hwvm import options, variants


def names(cpu: str | None, name: str | None) -> list[str]:
    return [variant.name for variant in variants.chosen(cpu, name)]


def test_variants_are_told_apart() -> None:
    assert len({variant.name for variant in variants.VARIANTS}) == len(variants.VARIANTS)
    assert all(variant.name.startswith(f"{variant.cpu}-") for variant in variants.VARIANTS)


def test_the_first_of_a_processor_is_the_usual_one() -> None:
    assert names(None, None) == ["amd-npt"]
    assert names("intel", None) == ["intel-ept"]


def test_all_are_those_of_the_processor() -> None:
    assert names(None, "all") == [variant.name for variant in variants.VARIANTS]
    assert names("intel", "all") == [variant.name for variant in variants.VARIANTS if variant.cpu == "intel"]


def test_names_are_found_with_and_without_their_processor() -> None:
    assert names(None, "amd-shadow") == names("amd", "shadow") == names("amd", "amd-shadow") == ["amd-shadow"]
    assert names(None, "ept") == ["intel-ept"]
    with pytest.raises(ValueError, match="amd-shadow or intel-shadow"):
        names(None, "shadow")
    with pytest.raises(ValueError, match="no variant 'ept'"):
        names("amd", "ept")


def test_pytest_gets_what_is_not_ours() -> None:
    wanted, rest = options.parse(
        ["-k", "fault and not x", "--cpu", "amd", "tests/kvm/test_switch.py::test_a[iret]", "-x", "--lf"]
    )
    assert wanted.variants[0].name == "amd-npt"
    assert rest == ["-k", "fault and not x", "tests/kvm/test_switch.py::test_a[iret]", "-x", "--lf"]
    assert options.pytest_arguments(wanted, rest) == ("-v", *rest)


@pytest.mark.parametrize(("words", "paths"), [([], options.FULL), (["-k", "scripts"], options.FULL)])
def test_without_paths_there_are_usual_ones(words: list[str], paths: tuple[str, ...]) -> None:
    wanted, rest = options.parse(words)
    assert options.pytest_arguments(wanted, rest) == ("-v", *rest, *paths)


def test_the_short_form_leaves_out_what_is_slow() -> None:
    assert options.pytest_arguments(*options.parse(["--short"])) == ("-v", "-m", "not slow", *options.SHORT)
    assert options.pytest_arguments(*options.parse(["--short", "-m", "guests"])) == ("-v", "-m", "guests", *options.SHORT)


def test_the_usual_paths_exist() -> None:
    assert [path for path in (*options.FULL, *options.SHORT) if not (options.ROOT / path).exists()] == []


@pytest.mark.parametrize(
    "words", [["--cpu", "arm"], ["--variant", "none"], ["--jobs", "0"], ["--seconds", "-5"], ["--with", "/no/such/path"]]
)
def test_mistakes_are_told(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        options.parse(words)
    assert raised.value.code == 2
    assert "scripts/hwtest: error:" in capsys.readouterr().err


def test_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCKVM_SEQUENCES", "7")
    wanted, rest = options.parse(["--asan", "--seconds", "300"])
    job = options.job(wanted, rest, "amd")
    assert job.c_builds == ("plain", "asan")
    assert job.seconds == 240
    assert job.environment["ASYNCKVM_SEQUENCES"] == "7"
    assert job.environment["ASYNCKVM_REQUIRE_KVM"] == "1"
    assert job.environment["ASYNCKVM_EMULATOR"] == "qemu"
    assert job.instead == ()
    wanted, rest = options.parse(["--no-c", "--command", "echo $HOME"])
    job = options.job(wanted, rest, "amd")
    assert (job.c_builds, job.instead) == ((), ("bash", "-c", "echo $HOME"))
