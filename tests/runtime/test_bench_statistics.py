"""The statistics of the benchmark: histograms, trimmed intervals, the certificate, meters. No clock is read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.runtime.bench.decide import Certificate, certify, settled, t_point, trimmed, verdict
from attar.runtime.bench.histogram import Histogram
from attar.runtime.bench.paired import Ratio, summarize
from attar.runtime.bench.rounds import Plan
from attar.runtime.bench.usage import Meter, meters, peak_mb
from attar.runtime.errors import SettingsError

nanoseconds = st.lists(st.integers(0, 10**11), min_size=1, max_size=200)


@settings(derandomize=True, max_examples=60)
@given(nanoseconds, st.sampled_from([0.5, 0.9, 0.99, 0.999, 1.0]))
def test_a_percentile_is_that_of_the_sorted_values_to_two_parts_in_a_thousand(values: list[int], share: float) -> None:
    exact = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    assert Histogram(values).quantile(share) == pytest.approx(exact, rel=0.002, abs=0)


@settings(derandomize=True, max_examples=40)
@given(nanoseconds, nanoseconds)
def test_merged_histograms_are_that_of_all_values(some: list[int], others: list[int]) -> None:
    merged = Histogram(some)
    merged.merge(Histogram(others))
    whole = Histogram(some + others)
    assert list(merged.steps()) == list(whole.steps())
    assert (merged.count, merged.largest) == (len(some) + len(others), max(some + others))


def test_a_histogram_says_which_percentiles_it_can_tell() -> None:
    calls = Histogram(range(1, 501))
    assert calls.told(0.99) and not calls.told(0.999)
    with pytest.raises(SettingsError, match="at least one value"):
        Histogram().quantile(0.5)
    with pytest.raises(SettingsError, match="at least 0"):
        Histogram([-1])


def test_trimmed_interval_by_hand() -> None:
    # Logarithms 0, 1, 2, 3, 100: one at each end is left out. Mean of 1, 2, 3: 2. Drawn in they are 1, 1, 2, 3, 3 with
    # the variance (1 + 1 + 0 + 1 + 1) / 4 = 1, so the standard error is sqrt(1 * 5) / 3 and t(2) = 4.303.
    found = trimmed([math.exp(x) for x in (100, 0, 2, 1, 3)])
    assert math.log(found.ratio) == pytest.approx(2)
    assert math.log(found.high) == pytest.approx(2 + 4.303 * math.sqrt(5) / 3)
    assert math.log(found.low) == pytest.approx(2 - 4.303 * math.sqrt(5) / 3)
    assert found.rounds == 5


def test_few_rounds_have_students_own_interval() -> None:
    values = [1.5, 2.0, 1.7]
    ours, student = trimmed(values), summarize(values)
    assert [ours.ratio, ours.low, ours.high] == pytest.approx([student.ratio, student.low, student.high])
    with pytest.raises(SettingsError, match="2 rounds"):
        trimmed([1.0])


# From tables of Student's t: two-sided 95 %, 98 % and 99 %.
@pytest.mark.parametrize(
    ("freedom", "confidence", "value"), [(6, 0.95, 2.447), (6, 0.98, 3.143), (10, 0.98, 2.764), (10, 0.99, 3.169)]
)
def test_points_of_t(freedom: int, confidence: float, value: float) -> None:
    assert t_point(freedom, confidence) == pytest.approx(value, rel=0.005)


def test_a_difference_is_found_beyond_one_per_cent_alone() -> None:
    assert verdict(Ratio(1.05, 1.02, 1.08, 9)) == "faster"
    assert verdict(Ratio(0.95, 0.92, 0.98, 9)) == "slower"
    assert verdict(Ratio(1.02, 1.005, 1.035, 9)) == "no difference"
    assert verdict(Ratio(0.995, 0.9925, 0.999, 9)) == "no difference"


def test_rounds_go_on_while_a_ratio_could_be_either() -> None:
    assert settled(Ratio(1.0, 0.98, 1.02, 9)) and settled(Ratio(20.0, 15.0, 25.0, 9))
    assert not settled(Ratio(1.06, 1.0, 1.12, 9))


def judged(low: float, high: float, rounds: int = 9) -> Certificate:
    quiet = Ratio(1.0, 0.999, 1.001, rounds)
    return certify({"p50": quiet, "throughput": Ratio(math.sqrt(low * high), low, high, rounds)})


def test_the_certificate_says_why_a_machine_is_too_noisy() -> None:
    assert judged(0.99, 1.01).verdict == "quiet"
    assert "throughput: 1.030 [1.020, 1.040] is not 1" in judged(1.02, 1.04).why
    assert "too wide to tell 5 %" in judged(0.95, 1.06).why
    assert judged(0.95, 1.06).noisy and judged(1.02, 1.04).noisy
    few = judged(0.5, 2.0, rounds=4)
    assert few.verdict == "not judged" and not few.noisy and "5 rounds" in few.why


def test_looking_again_is_paid_for_by_wider_intervals() -> None:
    assert Plan(rounds=9).confidence == 0.95
    assert Plan().looks == (9, 18, 36, 72)
    assert Plan().confidence == 0.9875  # 5 % shared among four looks
    with pytest.raises(SettingsError, match="at least 2"):
        Plan(rounds=1)


def test_a_meter_that_wraps_goes_on() -> None:
    meter = Meter("package", lambda: 0, 999_999)
    assert meter.between(100_000, 600_000) == 0.5
    assert meter.between(900_000, 100_000) == pytest.approx(0.2)


def test_energy_and_memory_are_read_or_said_to_be_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attar.runtime.bench.usage._gpus", lambda: [])
    found, why = meters(tmp_path)
    assert found == [] and "there is no RAPL" in why and peak_mb(tmp_path) is None
    for name in ("intel-rapl:0", "intel-rapl:0:0"):  # a package, and its cores, which the package's counter includes
        folder = tmp_path / "sys/class/powercap" / name
        folder.mkdir(parents=True)
        (folder / "energy_uj").write_text("1234\n")
        (folder / "max_energy_range_uj").write_text("262143328850\n")
    (only,), why = meters(tmp_path)
    assert (only.name, only.read(), why) == ("intel-rapl:0", 1234, "")
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("")
    assert "root alone" in meters(tmp_path)[1]
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("Name:\tpython\nVmHWM:\t    1000 kB\n")
    assert peak_mb(tmp_path) == pytest.approx(1.024)


class StandIn:
    """NVML with two GPUs, the first of which does not tell its energy."""

    def nvmlInit_v2(self) -> int:  # noqa: N802  NVML's own names
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, number: int, device: Any) -> int:  # noqa: N802
        device._obj.value = 100 + number
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, device: Any, energy: Any) -> int:  # noqa: N802
        energy._obj.value = 7
        return 0 if device.value == 101 else 3


def test_a_gpu_that_tells_its_energy_is_a_meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attar.runtime.bench.usage.ctypes.CDLL", lambda _: StandIn())
    (only,), why = meters(tmp_path)
    assert (only.name, only.read(), why) == ("GPU 1", 7000, "")
