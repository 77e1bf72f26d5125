"""Core counting against made-up cgroup trees, and the flags of made-up processors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attar.runtime import cpu
from tests.fixtures_bundle import make_tiny_bundle

REPOSITORY = Path(__file__).parents[2]


def tree(root: Path, files: dict[str, str]) -> Path:
    """Write the files of a made-up system under root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def sixteen_cores(monkeypatch):
    monkeypatch.setattr(cpu, "_affinity", lambda: 16)


V2 = {"proc/self/cgroup": "0::/pod/box\n"}
V1 = {"proc/self/cgroup": "5:memory:/pod\n4:cpu,cpuacct:/pod/box\n3:cpuset:/\n0::/\n"}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 16),
        (V2, 16),
        (V2 | {"sys/fs/cgroup/pod/box/cpu.max": "max 100000\n"}, 16),
        (V2 | {"sys/fs/cgroup/pod/box/cpu.max": "200000 100000\n"}, 2),
        (V2 | {"sys/fs/cgroup/pod/box/cpu.max": "250000 100000\n"}, 3),
        (V2 | {"sys/fs/cgroup/pod/box/cpu.max": "10000 100000\n"}, 1),
        (V2 | {"sys/fs/cgroup/pod/box/cpu.max": "6400000 100000\n"}, 16),
        # the parent's quota binds the child too
        (
            V2 | {"sys/fs/cgroup/pod/box/cpu.max": "max 100000", "sys/fs/cgroup/pod/cpu.max": "400000 100000"},
            4,
        ),
        # in a container the mount point is the container's own group, whatever path the process is told
        (V2 | {"sys/fs/cgroup/cpu.max": "300000 100000"}, 3),
        ({"proc/self/cgroup": "0::/../../x\n", "sys/fs/cgroup/cpu.max": "300000 100000"}, 3),
        (V2 | {"sys/fs/cgroup/cpu.max": "nonsense"}, 16),
        (V2 | {"sys/fs/cgroup/cpu.max": "100000 0"}, 16),
    ],
)
def test_quota_v2(tmp_path, sixteen_cores, files, cores):
    assert cpu.usable_cores(tree(tmp_path, files)) == cores


@pytest.mark.parametrize("folder", ["cpu,cpuacct/pod/box", "cpu/pod/box", "cpu,cpuacct/pod", "cpu,cpuacct"])
@pytest.mark.parametrize(("quota", "cores"), [("-1", 16), ("150000", 2), ("100000", 1), ("50000", 1)])
def test_quota_v1(tmp_path, sixteen_cores, folder, quota, cores):
    at = f"sys/fs/cgroup/{folder}"
    files = V1 | {f"{at}/cpu.cfs_quota_us": f"{quota}\n", f"{at}/cpu.cfs_period_us": "100000\n"}
    assert cpu.usable_cores(tree(tmp_path, files)) == cores


NESTED = [
    # (quota in cores of each group from the root on, cores): the smallest of them binds, rounded up
    ((None, None, None), 16),
    ((8, 4, 2), 2),
    ((2, 4, 8), 2),
    ((8, 0.5, 4), 1),
    ((None, 2.5, None), 3),
    ((1.01, None, None), 2),
    ((None, None, 0.001), 1),
    ((64, 32, 17), 16),
]


@pytest.mark.parametrize(("quotas", "cores"), NESTED)
@pytest.mark.parametrize("period", [100_000, 1_000, 1_000_000])
def test_nested_groups(tmp_path, sixteen_cores, quotas, cores, period):
    folders = ["", "pod/", "pod/box/"]
    two, one = dict(V2), {"proc/self/cgroup": "2:cpu:/pod/box\n1:cpuset:/elsewhere\n0::/\n"}
    for folder, quota in zip(folders, quotas, strict=True):
        share = None if quota is None else round(quota * period)
        two[f"sys/fs/cgroup/{folder}cpu.max"] = f"{'max' if share is None else share} {period}\n"
        one[f"sys/fs/cgroup/cpu/{folder}cpu.cfs_quota_us"] = f"{-1 if share is None else share}\n"
        one[f"sys/fs/cgroup/cpu/{folder}cpu.cfs_period_us"] = f"{period}\n"
    assert cpu.usable_cores(tree(tmp_path / "v2", two)) == cores
    assert cpu.usable_cores(tree(tmp_path / "v1", one)) == cores


def test_both_versions_at_once(tmp_path, sixteen_cores):
    """Systems between the two have quotas in the one hierarchy or in the other."""
    files = {
        "proc/self/cgroup": "1:cpu:/box\n0::/box\n",
        "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "500000",
        "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000",
    }
    assert cpu.usable_cores(tree(tmp_path, files)) == 5
    assert cpu.usable_cores(tree(tmp_path, {"sys/fs/cgroup/box/cpu.max": "300000 100000"})) == 3


def test_affinity_and_quota_together(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "_affinity", lambda: 2)
    assert cpu.usable_cores(tree(tmp_path, V2 | {"sys/fs/cgroup/cpu.max": "300000 100000"})) == 2


THREADS = """
import os, sys
os.sched_setaffinity(0, {int(core) for core in sys.argv[1].split(",")})
import attar, onnxruntime
from attar.runtime.cpu import usable_cores
started = []
real = onnxruntime.InferenceSession
def spy(model, options, **more):
    started.append(options.intra_op_num_threads)
    return real(model, options, **more)
onnxruntime.InferenceSession = spy
model = attar.load(sys.argv[2])
model("a good film")
print(usable_cores(), *(model.engine.at_once * threads for threads in started))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="affinity masks are Linux's")
def test_a_model_takes_no_more_threads_than_cores(tmp_path):
    """A process that may use one core, and one with all that this one may use."""
    bundle, allowed = make_tiny_bundle(tmp_path / "bundle"), sorted(os.sched_getaffinity(0))
    for cores in (allowed[:1], allowed):
        command = [sys.executable, "-c", THREADS, ",".join(map(str, cores)), str(bundle)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60)
        most = cpu.usable_cores() if cores == allowed else 1
        assert done.stdout.split() == [str(most)] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="affinity masks are Linux's")
def test_affinity_binds():
    one = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{one}}}); from attar.runtime.cpu import usable_cores; "
        "print(usable_cores())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "1"


def test_instruction_sets_of_x86_and_arm(tmp_path):
    x86 = tree(tmp_path / "x86", {"proc/cpuinfo": "model name\t: Some CPU\nflags\t\t: fpu avx2 avx512_vnni sse\n"})
    arm = tree(tmp_path / "arm", {"proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n"})
    assert cpu.instruction_sets(x86) == {"avx2", "avx512_vnni"}
    assert cpu.instruction_sets(arm) == {"asimddp", "i8mm"}
    assert cpu.instruction_sets(tmp_path / "nothing") == frozenset()


def test_machine_is_complete_even_without_proc(tmp_path):
    described = cpu.machine(tmp_path)
    assert set(described) == {"cpu", "cores", "instruction_sets", "os", "python"}
    assert described["cpu"] and described["cores"] >= 1 and described["instruction_sets"] == ""
    known = tree(tmp_path, {"proc/cpuinfo": "model name\t: Some CPU\nflags\t\t: avx2 amx_int8\n"})
    assert cpu.machine(known)["cpu"] == "Some CPU"
    assert cpu.machine(known)["instruction_sets"] == "amx_int8 avx2"
