from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import open_clip.transformer
import pytest
import timm.layers
import torch
from open_clip.timm_model import TimmModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from diht_k8s.api.errors import UserError
from diht_k8s.stages.train.model.other_draws import refuse_other_draws
from diht_k8s.stages.train.model.row_draws import AlikeDropout, RowDraws, UnlikeRowsError, draw_by_rows
from diht_k8s.stages.train.model.student import Student
from tests.recipe.train.small_timm import SIDE, small_swinv2_cr, small_vit_relpos

CPU = torch.device("cpu")
TEXT = {"context_length": 12, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dropout": (lambda: nn.Dropout(0.3), (5, 7)),
    "dropout of windows": (lambda: nn.Dropout(0.3), (3, 5)),
    "path": (lambda: timm.layers.DropPath(0.3), (5, 2)),
    "patches, open_clip": (lambda: open_clip.transformer.PatchDropout(0.4), (11, 2)),
    "patches, timm": (lambda: timm.layers.PatchDropout(0.4, num_prefix_tokens=2), (11, 2)),
    "patches in order": (lambda: timm.layers.PatchDropout(0.4, num_prefix_tokens=0, ordered=True), (11, 2)),
}
"""What is replaced, and the shape of a row that passes through it."""


class Pair(nn.Module):
    """Two places, the second of which is called twice."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.one = make()
        self.many = nn.ModuleList([make()])

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.one(x), self.many[0](x), self.many[0](x)])


def keyed(make: Callable[[], nn.Module], seed: int = 5) -> tuple[Pair, RowDraws]:
    model, draws = Pair(make), RowDraws(seed)
    draw_by_rows(model, draws)
    return model, draws


def drawn(made: tuple[Pair, RowDraws], x: Tensor, *, first: int = 0, pairs: int | None = None, step: int = 3) -> Tensor:
    model, draws = made
    draws.begin_step(step)
    draws.begin_rows(first, pairs or len(x), CPU)
    return model(x)


def rows(name: str, number: int) -> Tensor:
    shape = MODULES[name][1]
    return torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(1, *shape).repeat(number, *[1] * len(shape))


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("parts", [[6], [1] * 6, [4, 2], [2, 4]], ids=str)
def test_draws_when_the_rows_pass_in_other_parts_then_the_same(name: str, parts: list[int]) -> None:
    made = keyed(MODULES[name][0])
    samples = 3 if "windows" in name else 1  # of a pair
    whole = drawn(made, rows(name, 6 * samples), first=10, pairs=6)
    begins = itertools.accumulate(parts, initial=10)
    found = [
        drawn(made, rows(name, n * samples), first=begin, pairs=n) for begin, n in zip(begins, parts, strict=False)
    ]
    assert torch.equal(torch.cat(found, dim=1), whole)


@pytest.mark.parametrize("name", MODULES)
def test_draws_when_row_step_seed_place_or_call_is_another_then_others(name: str) -> None:
    made, x = keyed(MODULES[name][0]), rows(name, 64)
    base = drawn(made, x)
    others = {
        "row": drawn(made, x, first=64),
        "step": drawn(made, x, step=4),
        "late step": drawn(made, x, step=3 + 2**32),
        "seed": drawn(keyed(MODULES[name][0], seed=6), x),
        "place": base[[1, 0, 2]],
        "call": base[[0, 2, 1]],
    }
    assert [other for other, value in others.items() if torch.equal(value, base)] == []
    assert torch.equal(drawn(made, x), base)
    for value in base:
        assert len(value.unique(dim=0)) > 1


@pytest.mark.parametrize("name", MODULES)
def test_module_when_it_is_evaluated_then_nothing_is_dropped(name: str) -> None:
    model, draws = keyed(MODULES[name][0])
    draws.begin_rows(0, 2, CPU)
    x = rows(name, 2)
    assert torch.equal(model.eval()(x)[0], x)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(("module", "shape"), [(nn.Dropout, (7, 9)), (timm.layers.DropPath, (1,))])
def test_share_when_dropped_then_the_rate_and_the_rest_is_scaled_up(
    rate: float, module: Callable[[float], nn.Module], shape: tuple[int, ...]
) -> None:
    made, number = keyed(lambda: module(rate)), 20_000
    found = torch.cat([drawn(made, torch.ones(number, *shape), step=step).flatten() for step in range(3)])
    assert set(found.unique().tolist()) == {0.0, float(torch.tensor(1.0) / (1 - rate))}
    deviation = (rate * (1 - rate) / len(found)) ** 0.5
    assert abs(float((found == 0).double().mean()) - rate) < 4 * deviation


def test_masks_when_of_other_rows_elements_steps_places_and_calls_then_not_correlated() -> None:
    made = keyed(lambda: nn.Dropout(0.5))
    x = torch.ones(256, 64)
    zero, one = (drawn(made, x, step=step).sign() * 2 - 1 for step in (0, 1))
    pairs = {
        "rows": (zero[:, 1:], zero[:, :-1]),
        "distant rows": (zero[:, 128:], zero[:, :128]),
        "elements": (zero[..., 1:], zero[..., :-1]),
        "elements of other counters": (zero[..., 4:], zero[..., :-4]),
        "steps": (zero, one),
        "places": (zero[0], zero[1]),
        "calls": (zero[1], zero[2]),
        "next row in next step": (zero[:, 1:], one[:, :-1]),
    }
    for name, (left, right) in pairs.items():
        assert abs(float((left * right).mean())) < 4 / left.numel() ** 0.5, name


@pytest.mark.parametrize("name", ["patches, open_clip", "patches, timm", "patches in order"])
def test_patches_when_dropped_then_each_subset_is_as_likely_and_prefix_tokens_stay(name: str) -> None:
    made, prefix = keyed(MODULES[name][0]), {"patches, open_clip": 1, "patches, timm": 2}.get(name, 0)
    number, patches = 20_000, 11 - prefix
    found = drawn(made, torch.arange(11.0).reshape(1, 11, 1).repeat(number, 1, 1))[0, :, :, 0].long()
    assert torch.equal(found[:, :prefix], torch.arange(prefix).repeat(number, 1))
    kept = found[:, prefix:] - prefix
    assert kept.shape[1] == max(1, int(patches * 0.6))
    assert torch.equal(kept.sort(dim=1).values, kept) is (name == "patches in order")
    chosen_NL = torch.zeros(number, patches).scatter_(1, kept, 1.0)
    assert torch.equal(chosen_NL.sum(dim=1), torch.full((number,), float(kept.shape[1])))
    codes = (chosen_NL.long() << torch.arange(patches)).sum(dim=1)
    subsets, counts = codes.unique(return_counts=True)
    expected = torch.combinations(torch.arange(patches), kept.shape[1]).shape[0]
    assert len(subsets) == expected
    chi = float(((counts - number / expected) ** 2 / (number / expected)).sum())
    assert abs(chi - (expected - 1)) < 5 * (2 * (expected - 1)) ** 0.5


def test_patches_when_their_indices_are_asked_for_then_those_of_the_tokens() -> None:
    model, draws = nn.Sequential(timm.layers.PatchDropoutWithIndices(0.5, num_prefix_tokens=1)), RowDraws(0)
    draw_by_rows(model, draws)
    draws.begin_rows(0, 3, CPU)
    x = torch.arange(9.0).reshape(1, 9, 1).repeat(3, 1, 1)
    found, kept = model(x)
    assert torch.equal(found[:, 1:, 0], kept.float() + 1)
    assert model.eval()(x)[1] is None


@pytest.mark.parametrize(
    ("module", "x"),
    [(nn.Dropout(1.0), torch.ones(4, 3)), (timm.layers.DropPath(1.0), torch.ones(4, 3))],
    ids=["elements", "paths"],
)
def test_module_when_it_drops_all_then_zeros(module: nn.Module, x: Tensor) -> None:
    model, draws = nn.Sequential(module), RowDraws(0)
    draw_by_rows(model, draws)
    draws.begin_rows(0, 4, CPU)
    assert torch.equal(model(x), torch.zeros_like(x))


def test_words_when_seed_step_row_and_place_are_given_then_these_for_ever() -> None:
    made = keyed(lambda: nn.Dropout(0.5), seed=1)
    drawn(made, torch.ones(3, 2), first=7, step=11)
    assert made[1].words(0, 0, 3, 1).flatten().tolist() == [1171368346, 1521236651, 4176517870]
    assert made[1].words(1, 0, 3, 5)[1].tolist() == [374132881, 2368695989, 1143645188, 301816026, 3742091739]


ALIKE = {"vit_relpos": small_vit_relpos, "swinv2_cr": small_swinv2_cr}
"""Networks that drop parts of their biases of positions, and paths."""


class Positions:
    """What the dropouts of a network's biases of positions have let through, by pass."""

    def __init__(self, make: Callable[..., nn.Module], seed: int = 5) -> None:
        torch.manual_seed(0)
        self.model, self.draws = make(drop_path_rate=0.5, num_classes=0), RowDraws(seed)
        draw_by_rows(self.model, self.draws)
        self.places = [module for module in self.model.modules() if isinstance(module, AlikeDropout)]
        self._seen: list[Tensor] = []
        for place in self.places:
            place.register_forward_hook(self._see)

    def _see(self, _module: nn.Module, _args: Any, made: Tensor) -> None:
        self._seen.append(made != 0)

    def passed(self, x: Tensor, *, first: int = 0, step: int = 3) -> tuple[Tensor, list[Tensor]]:
        self._seen.clear()
        self.draws.begin_step(step)
        self.draws.begin_rows(first, len(x), CPU)
        return self.model(x), list(self._seen)


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", ALIKE)
def test_biases_when_dropped_for_all_images_alike_then_the_same_for_all_rows_and_parts(name: str) -> None:
    seen, x = Positions(ALIKE[name]), torch.randn(6, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    whole, masks = seen.passed(x, first=10)
    assert len(masks) == len(seen.places) > 1
    found = [seen.passed(x[a:b], first=10 + a) for a, b in ((0, 1), (1, 4), (4, 6))]
    assert all(equal(part, masks) for _, part in found)
    torch.testing.assert_close(torch.cat([out for out, _ in found]), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ALIKE)
def test_biases_when_step_seed_or_place_is_another_then_others_and_an_eighth_is_dropped(name: str) -> None:
    seen, x = Positions(ALIKE[name]), torch.ones(2, 3, SIDE, SIDE)
    masks = seen.passed(x)[1]
    others = [seen.passed(x, step=4)[1], seen.passed(x, step=3 + 2**32)[1], Positions(ALIKE[name], 6).passed(x)[1]]
    assert not any(equal(other, masks) for other in others)
    assert equal(seen.passed(x)[1], masks)
    alone = [place(torch.ones(64)) for place in seen.places for _call in range(2)]
    assert len({tuple(mask.tolist()) for mask in alone}) == len(alone) > 1
    # What ReLU has made 0 is as if it were dropped: ask for a share of what is not always 0.
    many = torch.stack([torch.cat([mask.flatten() for mask in seen.passed(x, step=step)[1]]) for step in range(64)])
    alive = many.any(dim=0)
    share = float((~many[:, alive]).double().mean())
    assert abs(share - 0.125) < 4 * (0.125 * 0.875 / (64 * int(alive.sum()))) ** 0.5
    assert equal(Positions(ALIKE[name]).passed(x)[1], masks)


@pytest.mark.parametrize("name", ALIKE)
def test_biases_when_blocks_are_computed_again_then_the_same_gradients(name: str) -> None:
    gradients = []
    for again in (False, True):
        seen = Positions(ALIKE[name])
        seen.model.set_grad_checkpointing(again)  # type: ignore[operator]  # timm's networks have it
        seen.passed(torch.ones(4, 3, SIDE, SIDE))[0].square().sum().backward()
        gradients.append([p.grad for p in seen.model.parameters() if p.grad is not None])
    assert equal(*gradients)


def tower(**config: Any) -> TimmModel:
    vision = {"timm_model_name": "test_vit", "image_size": 160, **config}
    made = Student({"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}).clip.visual
    assert isinstance(made, TimmModel)
    return made


def test_model_when_it_drops_nothing_then_the_same_modules_and_no_draws() -> None:
    made, draws = tower(timm_drop_path=0.0), RowDraws(0)
    before = dict(made.named_modules())
    draw_by_rows(made, draws)
    assert dict(made.named_modules()) == before
    assert draws.places == 0
    assert not any(module._forward_hooks for module in made.modules())


def test_tower_when_its_blocks_are_computed_again_then_they_draw_the_same() -> None:
    torch.manual_seed(0)
    made, draws = tower(timm_drop=0.2, timm_drop_path=0.7, patch_dropout=0.3), RowDraws(0)
    names = list(made.state_dict())
    draw_by_rows(made, draws)
    assert list(made.state_dict()) == names
    for module in made.modules():  # a path called twice in a block
        if hasattr(module, "drop_path2"):
            module.drop_path2 = module.drop_path1
    gradients = []
    for again in (False, True):
        made.set_grad_checkpointing(again)
        draws.begin_rows(0, 4, CPU)
        made.zero_grad()
        made(torch.ones(4, 3, 160, 160)).square().sum().backward()
        gradients.append([p.grad for p in made.parameters() if p.grad is not None])
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))


def test_tower_when_samples_are_no_multiple_of_the_pairs_then_refused() -> None:
    made = keyed(lambda: nn.Dropout(0.5))
    with pytest.raises(UnlikeRowsError, match="5 samples where 2 images pass"):
        drawn(made, torch.ones(5, 2), pairs=2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"timm_model_name": "ghostnet_050", "timm_proj": "", "image_size": 32}, "in trunk (aten."),
        ({"timm_attn_drop": 0.1}, "in trunk.blocks.0.attn (aten."),
    ],
    ids=["by a function", "in fused attention"],
)
def test_tower_when_it_draws_outside_of_modules_then_refused_by_name(config: dict[str, Any], message: str) -> None:
    attention = config.pop("timm_attn_drop", 0.0)
    made, draws = tower(**config), RowDraws(0)
    for module in made.modules():
        if hasattr(module, "attn_drop"):
            module.attn_drop = nn.Dropout(attention)
    draw_by_rows(made, draws)
    with pytest.raises(UserError) as refused:
        refuse_other_draws(made, draws)
    assert message in str(refused.value)


class Bias(nn.Module):
    """Adds a bias of 64 places, of which it drops some for all images alike, as swinv2_cr's does."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk, self.drop = trunk, nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk(x + self.drop(torch.ones(64, 1)).mean())


def test_tower_when_it_draws_for_all_images_alike_then_refused() -> None:
    made, draws = tower(), RowDraws(0)
    made.trunk = Bias(made.trunk)
    draw_by_rows(made, draws)
    with pytest.raises(UserError, match=r"drops parts of trunk.drop \(64 samples where 1009 images pass\)"):
        refuse_other_draws(made, draws)


class Twice(nn.Module):
    """Passes a part of it twice, or what the part holds."""

    def __init__(self, trunk: nn.Module, *, within: bool) -> None:
        super().__init__()
        self.trunk, self.within, self.part = trunk, within, nn.Sequential(nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)
        return self.part[0](x) if self.within else self.part(x) + self.part(x)


@pytest.mark.parametrize(
    ("within", "message"),
    [(False, "passes trunk.part 2 times for one image"), (True, "calls trunk.part.0 from elsewhere than the module")],
    ids=["twice", "from elsewhere"],
)
def test_tower_when_the_draws_of_a_module_cannot_be_counted_then_refused_by_name(within: bool, message: str) -> None:
    made, draws = tower(), RowDraws(0)
    made.trunk = Twice(made.trunk, within=within)
    draw_by_rows(made, draws)
    with pytest.raises(UserError) as refused:
        refuse_other_draws(made, draws)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "config",
    [
        {"timm_drop": 0.2, "timm_drop_path": 0.7, "patch_dropout": 0.3},
        {"timm_model_name": "test_efficientnet", "image_size": 32},
        {"timm_model_name": "convit_tiny", "image_size": 224, "timm_drop_path": 0.1},
        {"timm_model_name": "small_vit_relpos", "image_size": SIDE, "timm_drop_path": 0.1},
        {"timm_model_name": "small_swinv2_cr", "image_size": SIDE, "timm_drop_path": 0.1},
    ],
    ids=["by rows", "batch statistics", "caches what it computes", "alike by name: relpos", "alike by name: swinv2_cr"],
)
def test_tower_when_it_draws_by_rows_alone_then_passed_and_as_it_was(config: dict[str, Any]) -> None:
    made, draws = tower(**config), RowDraws(0)
    draw_by_rows(made, draws)
    state = {name: value.clone() for name, value in made.state_dict().items()}
    generator = torch.get_rng_state()
    refuse_other_draws(made, draws)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[name]) for name, value in made.state_dict().items())
    draws.begin_rows(0, 2, CPU)
    side = config.get("image_size", 160)
    assert not isinstance(made(torch.ones(2, 3, side, side)), FakeTensor)
    assert made.training


@pytest.mark.parametrize("recomputed", [False, True])
def test_tower_when_compiled_then_one_graph_draws_for_all_steps_and_rows(recomputed: bool) -> None:
    torch.manual_seed(0)
    made, draws = tower(timm_drop=0.2, timm_drop_path=0.7, patch_dropout=0.3), RowDraws(0)
    draw_by_rows(made, draws)
    made.set_grad_checkpointing(recomputed)
    for module in made.modules():  # a path called twice in a block
        if hasattr(module, "drop_path2"):
            module.drop_path2 = module.drop_path1
    graphs: list[Any] = []

    def backend(graph: torch.fx.GraphModule, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(made, backend=backend, fullgraph=True)

    def gradients(model: Callable[[Tensor], Tensor]) -> Tensor:
        made.zero_grad()
        model(torch.ones(4, 3, 160, 160)).square().sum().backward()
        return torch.cat([p.grad.flatten() for p in made.parameters() if p.grad is not None])

    found: list[Tensor] = []
    for step, first in [(0, 0), (1, 0), (2, 4)]:
        draws.begin_step(step)
        draws.begin_rows(first, 4, CPU)
        found.append(gradients(compiled))
        torch.testing.assert_close(found[-1], gradients(made))
    assert len(graphs) == 1
    assert not torch.allclose(found[0], found[1])
    assert not torch.allclose(found[1], found[2])
