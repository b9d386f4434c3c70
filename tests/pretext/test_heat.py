"""Where a sound comes from: heat lies on the thing that sounds, and moves with the sound."""

import torch

from clipmill.plugin import Info
from clipmill_pretext.audio_visual import AudioVisual
from clipmill_pretext.audio_visual_network import AudioVisualNetwork

LESSONS = 40  # steps, until a network knows four things by their sounds
KINDS, BANDS, STEPS, SIDE, OBJECT = 4, 16, 16, 64, 20
COLOURS = torch.tensor([[2.0, -1, -1], [-1, 2.0, -1], [-1, -1, 2.0], [2.0, 2.0, -1]])


def with_objects(
    places: list[tuple[int, int]], kinds: list[int], chance: torch.Generator
) -> torch.Tensor:
    """A dim picture with an object of each kind, by its colour, at each place."""
    picture = 0.3 * torch.randn(3, SIDE, SIDE, generator=chance)
    for (top, left), kind in zip(places, kinds, strict=True):
        picture[:, top : top + OBJECT, left : left + OBJECT] += COLOURS[kind][:, None, None]
    return picture[:, None]


def sound_of(kind: int, chance: torch.Generator) -> torch.Tensor:
    """The tone of a kind, in noise."""
    made = -20 + torch.randn(BANDS, STEPS, generator=chance)
    made[3 * kind + 2] += 16
    return made


def lesson(chance: torch.Generator, takes: int) -> dict[str, torch.Tensor]:
    """Pictures of one object each, anywhere, and the sounds of two kinds."""
    own = torch.randint(KINDS, (takes,), generator=chance)
    other = (own + torch.randint(1, KINDS, (takes,), generator=chance)) % KINDS
    made = {"video": own, "video_other": other, "is_far": torch.zeros(takes)}
    for suffix, kinds in (("", own.tolist()), ("_other", other.tolist())):
        corners = torch.randint(SIDE - OBJECT, (takes, 2), generator=chance).tolist()
        told = zip(corners, kinds, strict=True)
        made[f"rgb{suffix}"] = torch.stack(
            [with_objects([(y, x)], [k], chance) for (y, x), k in told]
        )
        made[f"spectrogram{suffix}"] = torch.stack([sound_of(k, chance) for k in kinds])
        made[f"heard{suffix}"] = torch.ones(takes)
    return made


def taught() -> AudioVisualNetwork:
    """A network after some lessons."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plugin = AudioVisual(
        width=0.125, size=SIDE, resize=SIDE, bands=BANDS, embedding=16, learning_rate=0.005
    )
    network = plugin.build(Info())
    assert isinstance(network, AudioVisualNetwork)
    optimizer, chance = plugin.optimizer(network), torch.Generator().manual_seed(0)
    for _ in range(LESSONS):
        optimizer.zero_grad()
        network(lesson(chance, 16))["loss"].backward()
        optimizer.step()
    return network.eval().requires_grad_(False)


def test_heat_lies_on_the_thing_that_sounds() -> None:
    """Learnt from pictures of one thing each, it tells which of two things is heard."""
    network = taught()
    chance = torch.Generator().manual_seed(1)
    asked = lesson(chance, 32)
    corners = [(4, 4), (40, 40)]
    kinds = zip(asked["video"].tolist(), asked["video_other"].tolist(), strict=True)
    asked["rgb"] = torch.stack([with_objects(corners, list(both), chance) for both in kinds])
    swapped = {**asked, "spectrogram": asked["spectrogram_other"]}
    for batch, place in ((asked, 0), (swapped, 1)):
        heat_Bhw = network.predict(batch)[0]["heat"]
        half = heat_Bhw.shape[1] // 2
        corner = heat_Bhw[:, :half, :half].amax((1, 2)), heat_Bhw[:, half:, half:].amax((1, 2))
        is_hotter = corner[place] > corner[1 - place]
        assert float(is_hotter.float().mean()) > 0.8, f"the thing at {corners[place]} is heard"
