"""The audio head: published names and sizes, a plain formulation's numbers, channels, lengths, precision."""

import copy

import pytest
import torch
from golden.named_weights import LAYOUT, waveform
from golden.plain_audio_head import plain_forward
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.models.attention_gate import AttentionGate
from trainer.models.convolution import convolve_and_normalise
from trainer.models.esresnext import ESResNeXt, open_gates


def seeded(outputs: int = 50) -> ESResNeXt:
    return ESResNeXt(outputs, generator=torch.Generator().manual_seed(0))


def worn(head: ESResNeXt) -> ESResNeXt:
    """With normalisations that training would leave behind."""
    generator = torch.Generator().manual_seed(1)
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.normal_(module.weight, 0.7, 0.1, generator=generator)
    head.bn1.running_var *= 2500  # that of decibels
    return head


@pytest.fixture(scope="module")
def head() -> ESResNeXt:
    return worn(seeded()).eval()


def sounds(seconds: float, channels: int, *salts: str) -> Tensor:
    return torch.stack([torch.from_numpy(waveform(seconds, channels, salt)) for salt in salts])


def relative(made: Tensor, expected: Tensor) -> float:
    return float((made - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("outputs", "parameters"), [(1024, 32_104_771), (527, 31_086_418), (50, 30_109_045), (10, 30_027_085)]
)
def test_a_head_has_as_many_parameters_as_the_published_one(outputs: int, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in ESResNeXt(outputs).parameters()) == parameters


def test_names_and_shapes_are_the_published_ones_but_for_two() -> None:
    rows = [line.split("\t") for line in LAYOUT.read_text().splitlines() if line.startswith("audio.")]
    published = {name.removeprefix("audio."): shape for name, shape, _ in rows}
    published["fbsp.window"] = published.pop("window")
    assert published.pop("fbsp.bias") == "0"
    ours = {name: ",".join(map(str, value.shape)) for name, value in ESResNeXt().state_dict().items()}
    assert ours == published


@torch.no_grad()
@pytest.mark.parametrize("threads", [1, 2])
def test_outputs_are_those_of_a_plain_formulation(head: ESResNeXt, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        sound = sounds(0.3, 2, "x", "y")
        assert relative(head(sound), plain_forward(head, sound)) < 1e-4
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def test_features_of_channels_are_summed(head: ESResNeXt) -> None:
    mono = sounds(0.2, 1, "x", "y")
    doubled = head(mono.expand(-1, 2, -1))
    assert relative(doubled, 2 * (head(mono) - head.fc.bias) + head.fc.bias) < 1e-4


@torch.no_grad()
def test_a_clip_among_others_of_any_length_is_what_it_is_alone(head: ESResNeXt) -> None:
    lengths = [4_000, 1, 9_000, 4_001, 1_654, 9_000]  # the first and the fourth make as many frames
    clips = sounds(0.3, 1, *map(str, lengths))
    together = F.normalize(head(clips, lengths))
    for clip, length, row in zip(clips, lengths, together, strict=True):
        alone = F.normalize(head(clip[None, :, :length]))[0]
        assert (row - alone).abs().max() < 1e-5


@torch.no_grad()
def test_what_lies_beyond_a_length_is_not_heard(head: ESResNeXt) -> None:
    clips = sounds(0.2, 1, "x", "y")
    expected = head(clips, [3_000, 5_000])
    clips[0, :, 3_000:] = torch.nan
    assert torch.equal(head(clips, [3_000, 5_000]), expected)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [([5], "1 lengths for 2 clips"), ([5, 101], "each from 1 to 100 samples"), ([0, 5], "each from 1")],
)
def test_lengths_that_cannot_be_get_a_clear_error(head: ESResNeXt, lengths: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        head(torch.zeros(2, 1, 100), lengths)


@torch.no_grad()
@pytest.mark.parametrize(
    "sound", [torch.zeros(1, 1, 5_000), torch.ones(1, 8, 1), torch.full((1, 1, 99), 1e6)]
)
def test_silence_one_sample_and_excess_give_finite_outputs(head: ESResNeXt, sound: Tensor) -> None:
    assert head(sound).isfinite().all()


@torch.no_grad()
def test_a_nan_spoils_its_own_row_only(head: ESResNeXt) -> None:
    clips = sounds(0.1, 1, "x", "y")
    expected = head(clips)[1]
    clips[0, 0, 7] = torch.nan
    spoilt, sound = head(clips)
    assert spoilt.isnan().all()
    torch.testing.assert_close(sound, expected, rtol=1e-5, atol=1e-6)


def test_the_same_generator_gives_the_same_weights_and_no_global_one_is_asked() -> None:
    torch.manual_seed(1)
    first = seeded().state_dict()
    torch.manual_seed(2)
    second = seeded().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_open_gates_have_normalisations_of_one_and_one() -> None:
    head = ESResNeXt()
    open_gates(head)
    assert head.att5.bn.bias.eq(1).all()
    assert head.att1.bn.weight.eq(1).all()
    assert head.bn1.bias.eq(0).all()


# -- training


def test_gradients_and_statistics_are_those_of_the_plain_formulation() -> None:
    ours = seeded(4).double().train()  # in float32, the way back amplifies rounding to 5 %
    nn.init.constant_(ours.fbsp.m, 0.3)  # at exactly 0 an order's gradient is that of rounding
    plain = copy.deepcopy(ours).to(memory_format=torch.contiguous_format)
    sound = sounds(0.15, 2, "x", "y", "z").double()
    target = torch.tensor([0, 3, 1])
    F.cross_entropy(ours(sound), target).backward()
    F.cross_entropy(plain_forward(plain, sound), target).backward()
    for (name, made), expected in zip(ours.named_parameters(), plain.parameters(), strict=True):
        if name.endswith(("conv_depth.bias", "conv_point.bias")):
            continue  # zero but for rounding, before a batch normalisation
        assert made.grad is not None
        assert expected.grad is not None
        assert relative(made.grad, expected.grad) < 1e-6, name
    for (name, made), expected in zip(ours.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(made, expected, rtol=1e-6, atol=1e-9, msg=name)
    assert ours.bn1.num_batches_tracked == 2  # one batch of statistics for each channel


def test_a_training_batch_of_one_gets_a_clear_error() -> None:
    with pytest.raises(ValueError, match="training batch of 1; expected at least 2"):
        seeded().train()(torch.zeros(1, 1, 2_000))


def test_lengths_in_training_get_a_clear_error() -> None:
    with pytest.raises(ValueError, match="clips of one length"):
        seeded().train()(torch.zeros(2, 1, 100), [100, 50])


def test_a_head_in_evaluation_still_passes_gradients(head: ESResNeXt) -> None:
    fresh = copy.deepcopy(head)
    fresh(sounds(0.1, 1, "x")).sum().backward()
    assert all(parameter.grad is not None for parameter in fresh.parameters())


# -- precision


@torch.no_grad()
def test_autocast_keeps_outputs_in_float32_and_near(head: ESResNeXt) -> None:
    sound = sounds(0.3, 1, "x", "y")
    with torch.autocast("cpu", torch.bfloat16):
        outputs = head(sound)
    assert outputs.dtype is torch.float32
    assert relative(outputs, head(sound)) < 0.05


@torch.no_grad()
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_normalising_in_place_gives_the_bits_of_batch_norm(memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(16, 64, 3, padding=1), nn.BatchNorm2d(64).eval()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.1, 100)
    nn.init.normal_(norm.weight)
    x = (30 * torch.randn(2, 16, 20, 21)).contiguous(memory_format=memory_format)
    assert torch.equal(convolve_and_normalise(x, convolution, norm), norm(convolution(x)))


def test_the_last_gate_sees_only_the_centre_of_its_kernel() -> None:
    gate = AttentionGate(8, 8, (3, 5))
    gate(torch.randn(4, 8, 3, 6), (1, 1)).square().sum().backward()
    assert gate.conv_depth.weight.grad is not None
    taps = gate.conv_depth.weight.grad.abs().sum(dim=(0, 1))
    assert taps[1, 2] > 0
    assert taps.count_nonzero() == 1


@torch.no_grad()
def test_a_compiler_gets_the_network_as_one_graph_behind_the_front_end(head: ESResNeXt) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def collect(graph: torch.fx.GraphModule, _: list[Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    compiled, sound = copy.deepcopy(head), sounds(0.2, 1, "x", "y")
    compiled.compile(backend=collect, dynamic=False)
    assert relative(compiled(sound), head(sound)) < 1e-4
    convolutions = [sum("conv" in node.name for node in graph.graph.nodes) for graph in graphs]
    assert max(convolutions) >= 63  # all: 53 of the residual network, two of each gate
