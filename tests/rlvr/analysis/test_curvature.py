"""The largest Hessian eigenvalue, on losses whose Hessian is known."""

import pytest
import torch
from torch import Tensor, nn

from rlvr.analysis.curvature import hessian_product, lanczos, top_eigenvalue


def quadratic(spectrum: list[float], seed: int = 0) -> tuple[nn.Parameter, Tensor]:
    """A parameter and a symmetric matrix with these eigenvalues in a random basis."""
    size = len(spectrum)
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator)).Q
    matrix = basis @ torch.diag(torch.tensor(spectrum)) @ basis.T
    return nn.Parameter(torch.randn(size, generator=generator)), matrix


@pytest.mark.parametrize(
    "spectrum",
    [
        [3.0, 1.0, 0.5, 0.1],
        [0.0] * 40 + [7.0],
        [1e-4 * i for i in range(60)],
        [-9.0, -2.0, 0.25, 2.0],  # the largest is signed: not the largest in size
        [-5.0, -4.0, -3.0],
        [1e4, 1.0, 1.0],
    ],
)
def test_a_quadratic_has_the_top_eigenvalue_of_its_matrix(spectrum: list[float]) -> None:
    x, matrix = quadratic(spectrum)
    found = top_eigenvalue(lambda: 0.5 * x @ matrix @ x, [x])
    assert found.converged
    assert found.value == pytest.approx(max(spectrum), rel=2e-2)  # 4 times the tolerance


def test_a_clustered_spectrum_converges_to_the_tolerance() -> None:
    spectrum = [1.0 - i / 400 for i in range(400)]
    x, matrix = quadratic(spectrum)
    found = top_eigenvalue(lambda: 0.5 * x @ matrix @ x, [x], tolerance=1e-4)
    assert found.converged
    assert found.iterations < 200
    assert found.value == pytest.approx(1.0, rel=5e-3)


def test_two_parameters_are_one_joint_space() -> None:
    """x y has the Hessian [[0, 1], [1, 0]]: eigenvalue 1, though each parameter alone has 0."""
    x, y = nn.Parameter(torch.tensor([[0.3]])), nn.Parameter(torch.tensor([2.0]))
    assert top_eigenvalue(lambda: (x * y).sum(), [x, y]).value == pytest.approx(1.0)
    assert top_eigenvalue(lambda: (x * y).sum(), [x]).value == pytest.approx(0.0, abs=1e-6)


def test_an_unused_parameter_changes_nothing() -> None:
    x, matrix = quadratic([3.0, 1.0])
    unused = nn.Parameter(torch.zeros(5))
    assert top_eigenvalue(lambda: 0.5 * x @ matrix @ x, [x, unused]).value == pytest.approx(3.0)


def test_too_few_iterations_are_not_converged() -> None:
    x, matrix = quadratic([float(i) for i in range(50)])
    found = top_eigenvalue(lambda: 0.5 * x @ matrix @ x, [x], max_iterations=3)
    assert (found.iterations, found.converged) == (3, False)
    assert found.value < 49


def test_the_sum_of_two_losses_equals_both_in_one() -> None:
    x, first = quadratic([3.0, 1.0, 0.5])
    _, second = quadratic([2.0, 1.5, 0.1], seed=1)
    split = hessian_product([lambda: 0.5 * x @ first @ x, lambda: 0.5 * x @ second @ x], [x])
    expected = float(torch.linalg.eigvalsh(first + second)[-1])
    assert lanczos(split, [x]).value == pytest.approx(expected, rel=1e-3)


def test_attention_is_twice_differentiable_here() -> None:
    """The value equals that of the Hessian formed entry by entry."""
    torch.manual_seed(0)
    states = torch.randn(1, 2, 5, 4)
    weight = nn.Parameter(torch.randn(4, 4))

    def loss(w: Tensor = weight) -> Tensor:
        out = nn.functional.scaled_dot_product_attention(states @ w, states, states @ w)
        return (out**2).sum()

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        hessian: Tensor = torch.autograd.functional.hessian(loss, weight.detach())  # pyright: ignore[reportAssignmentType]
    expected = float(torch.linalg.eigvalsh(hessian.reshape(16, 16))[-1])
    assert top_eigenvalue(loss, [weight], tolerance=1e-5).value == pytest.approx(expected, rel=1e-3)


def test_the_seed_decides_the_start_and_nothing_else() -> None:
    x, matrix = quadratic([float(i) for i in range(50)])
    runs = [
        top_eigenvalue(lambda: 0.5 * x @ matrix @ x, [x], tolerance=1e-5, seed=s) for s in (0, 0, 1)
    ]
    assert runs[0] == runs[1]
    assert runs[2].value == pytest.approx(runs[0].value, rel=1e-3)


def test_bfloat16_parameters_are_refused() -> None:
    x = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="float32"):
        top_eigenvalue(lambda: (x**2).sum(), [x])
