"""The rules by hand, and mining by law."""

import math

import pytest
import torch

from clipmill_similar.network import Binary, Contrastive, Triplets

ONE, TWO = 7, 8
WHO = torch.tensor([[ONE, ONE, TWO]])


def on_circle(*degrees: float) -> torch.Tensor:
    """Embeddings [1, P, 2] at these angles: squared distance 2 - 2 cos."""
    turns = [math.radians(angle) for angle in degrees]
    return torch.tensor([[[math.cos(turn), math.sin(turn)] for turn in turns]])


def squared(degrees: float) -> float:
    return 2 - 2 * math.cos(math.radians(degrees))


def test_pairs_of_one_are_drawn_together_and_others_pushed_to_the_margin() -> None:
    x_BPE = on_circle(0, 30)
    same, two = torch.tensor([[ONE, ONE]]), torch.tensor([[ONE, TWO]])
    assert float(Contrastive(1.0)(x_BPE, same)["loss"]) == pytest.approx(squared(30), abs=1e-6)
    assert float(Contrastive(1.0)(x_BPE, two)["loss"]) == pytest.approx(1 - squared(30), abs=1e-6)
    assert float(Contrastive(0.1)(x_BPE, two)["loss"]) == 0.0


@pytest.mark.parametrize(("mining", "far"), [("random", 60), ("semi_hard", 40), ("hard", 10)])
def test_mining_chooses_among_the_batch(mining: str, far: float) -> None:
    x_BPE = torch.cat([on_circle(0, 30, 60), on_circle(180, 40, 10)])
    who_BP = torch.tensor([[ONE, ONE, TWO], [3, 4, 5]])
    rule = Triplets(4.0, mining)
    near_B = rule.distances(x_BPE[:, 0], x_BPE[:, 1])
    far_B = rule._far(x_BPE, near_B, who_BP)
    assert float(far_B[0]) == pytest.approx(squared(far), abs=1e-6)
    loss = (near_B - far_B + 4.0).mean()  # within the margin all count
    assert float(rule(x_BPE, who_BP)["loss"]) == pytest.approx(float(loss), abs=1e-6)


def test_semi_hard_takes_the_farthest_where_all_are_nearer() -> None:
    x_BPE = on_circle(0, 170, 60)
    told = Triplets(0.2, "semi_hard")(x_BPE, WHO)
    assert float(told["loss"]) == pytest.approx(squared(170) - squared(60) + 0.2, abs=1e-5)
    assert float(told["active"]) == 1.0


@torch.no_grad()
def test_what_differs_speaks_for_two_by_its_weight() -> None:
    rule = Binary(2)
    rule.weight.copy_(torch.tensor([1.0, 2.0]).expm1().log())  # softplus gives 1 and 2
    rule.bias.fill_(1.0)
    one, two = (rule.placed(torch.tensor([[turn * 100.0, -turn * 100.0]])) for turn in (1, -1))
    assert float(rule.distances(one, two)) == pytest.approx(3.0)
    assert float(rule.distances(one, one)) == 0.0
    told = rule(torch.stack([one, two], 1), torch.tensor([[ONE, TWO]]))
    assert float(told["loss"]) == pytest.approx(math.log1p(math.exp(1 - 3)))
    assert float(told["pair_accuracy"]) == 1.0
