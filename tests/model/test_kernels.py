"""liger-kernel computes where it may, and gives what the plain path gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llama_tasks.model import kernels

IDS = torch.randint(3, 97, (2, 11), generator=torch.Generator().manual_seed(0))


def forbidden(*_: Any) -> torch.Tensor:
    raise AssertionError("this must take the plain path")


def test_a_cpu_takes_the_plain_path(monkeypatch: pytest.MonkeyPatch, pair: Any) -> None:
    monkeypatch.setattr(kernels, "_is_installed", lambda: True)
    monkeypatch.setattr(kernels, "rms_norm", forbidden)
    monkeypatch.setattr(kernels, "swiglu", forbidden)
    pair[1].train()(IDS, labels=IDS).loss.backward()


@pytest.mark.parametrize(
    ("device", "gradient", "installed", "other", "chosen"),
    [
        ("cuda", True, True, torch.bfloat16, True),
        ("cpu", True, True, torch.bfloat16, False),
        ("cuda", False, True, torch.bfloat16, False),
        ("cuda", True, False, torch.bfloat16, False),
        ("cuda", True, True, torch.float32, False),  # one kernel, one dtype
    ],
)
def test_who_computes(
    monkeypatch: pytest.MonkeyPatch, device: str, gradient: bool, installed: bool, other: torch.dtype, chosen: bool
) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    monkeypatch.setattr(kernels, "_is_installed", lambda: installed)
    monkeypatch.setattr(kernels, "Tensor", type(FakeTensorMode().from_tensor(torch.ones(1))))
    with FakeTensorMode(), torch.set_grad_enabled(gradient):
        x = torch.ones(2, 8, dtype=torch.bfloat16, device=device)
        assert kernels.by_liger(x, torch.ones(8, dtype=other, device=device)) is chosen


@pytest.mark.skipif(not torch.cuda.is_available(), reason="liger-kernel's kernels run on a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_equal_the_plain_path(monkeypatch: pytest.MonkeyPatch, make_pair: Any, dtype: torch.dtype) -> None:
    pytest.importorskip("liger_kernel", reason="liger-kernel is not installed (extra gpu)")

    def loss_and_gradients() -> dict[str, torch.Tensor]:
        model = make_pair()[1].to("cuda", dtype).train()
        loss = model(IDS.cuda(), labels=IDS.cuda()).loss
        loss.backward()
        return {"loss": loss.detach(), **{name: p.grad for name, p in model.named_parameters()}}

    fused = loss_and_gradients()
    monkeypatch.setattr(kernels, "by_liger", lambda *_: False)
    plain = loss_and_gradients()
    limit = 1e-4 if dtype == torch.float32 else 3e-2
    for name, expected in plain.items():
        assert (fused[name] - expected).norm() <= limit * expected.norm(), name
