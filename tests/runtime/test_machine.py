"""The hardware in words."""

import platform

import psutil
import torch

from ood_core.runtime.machine import _processor, machine


def test_the_machine_is_described_without_its_name():
    found = machine()
    assert list(found) == ["processor", "cores", "threads of torch", "memory", "accelerator", "system"]
    assert found["threads of torch"] == str(torch.get_num_threads())
    assert found["cores"].endswith(f"of {psutil.cpu_count()} logical")
    assert found["memory"].endswith(" GiB")
    assert platform.node() not in " ".join(found.values()).split()
    assert all(found.values())


def test_the_processor_has_its_name_where_the_system_tells_it(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some  CPU @ 2 GHz\nprocessor\t: 1\n")
    assert _processor(tmp_path / "cpuinfo") == "Some CPU @ 2 GHz"
    assert _processor(tmp_path / "none") == (platform.processor() or platform.machine())
