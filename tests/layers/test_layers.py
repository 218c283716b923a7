import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mtpano_zoo import sphere
from mtpano_zoo.layers import BridgeBlock, ERPTokenMixer, InvariantBlock, Upsample, VariantBlock, ViTEncoder, conv2d
from mtpano_zoo.layers.convolution import BilinearByProducts
from mtpano_zoo.layers.geometry import geometry_encoding, pole_weights


@pytest.mark.parametrize("kernel", [3, (3, 9)])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_sees_the_neighbours_on_the_sphere(kernel: int | tuple[int, int], stride: int) -> None:
    convolution = conv2d(2, 3, kernel, convention="sphere", stride=stride).double()
    x = torch.rand(1, 2, 6, 12, dtype=torch.float64)
    rows, columns = (s // 2 for s in convolution.kernel_size)

    def pixel(row: int, column: int) -> torch.Tensor:
        if row < 0:
            row, column = -1 - row, column + 6
        elif row > 5:
            row, column = 11 - row, column + 6
        return x[0, :, row, column % 12]

    for i in range(6 // stride):
        for j in range(12 // stride):
            window = [
                [pixel(i * stride + di, j * stride + dj) for dj in range(-columns, columns + 1)]
                for di in range(-rows, rows + 1)
            ]
            patch = torch.stack([torch.stack(line, -1) for line in window], -2)
            expected = (convolution.weight * patch).sum((1, 2, 3)) + convolution.bias
            torch.testing.assert_close(convolution(x)[0, :, i, j], expected)


@pytest.mark.parametrize("size", [(12, 24), (6, 12), (9, 18), (24, 36), (7, 11)])
def test_upsampling_interpolates_on_the_sphere(size: tuple[int, int]) -> None:
    """Against `sphere.sample`, which takes another way to the same bilinear interpolation."""
    x = torch.rand(2, 3, 6, 12, dtype=torch.float64)
    resized = Upsample("sphere", align_corners=True)(x, size)
    rays = sphere.erp_rays(*size, dtype=torch.float64)
    torch.testing.assert_close(resized, sphere.sample(x, rays[None], "image"), rtol=1e-6, atol=1e-6)


def test_mixer_is_dense_at_the_equator_and_wide_at_the_poles() -> None:
    mixer = ERPTokenMixer(4, "sphere").double()
    x = torch.rand(1, 4, 8, 16, dtype=torch.float64)
    latitude = torch.tensor([(0.5 - (row + 0.5) / 8) * math.pi for row in range(8)], dtype=torch.float64)
    weight = latitude.sin().abs()[:, None]
    torch.testing.assert_close(mixer(x), (1 - weight) * mixer.equator(x) + weight * mixer.pole(x), rtol=1e-6, atol=1e-6)
    assert mixer.pole.kernel_size == (3, 9)
    assert mixer.pole.groups == 4


def test_geometry_is_continuous_across_the_border_in_our_variant_only() -> None:
    like = torch.zeros(1, 1, 16, 32)
    for convention, continuous in (("sphere", True), ("paper", False)):
        steps = (
            (geometry_encoding(convention, like) - geometry_encoding(convention, like).roll(1, -1))
            .abs()
            .amax((0, 1, 2))
        )
        assert bool(steps[0] <= steps[1:].max() * 1.0001) is continuous


def test_paper_geometry_is_end_inclusive() -> None:
    geometry = geometry_encoding("paper", torch.zeros(1, 1, 5, 9))[0]
    torch.testing.assert_close(geometry[3, :, 0], torch.linspace(0, math.pi, 5))
    torch.testing.assert_close(geometry[4, 0], torch.linspace(0, 2 * math.pi, 9))
    torch.testing.assert_close(geometry[:3, 2, 4], torch.tensor([-1.0, 0.0, 0.0]), atol=1e-6, rtol=0)
    assert pole_weights("paper", torch.zeros(1, 1, 5, 9))[:, 0].tolist() == pytest.approx(
        [1, 0.5**0.5, 0, 0.5**0.5, 1], abs=1e-6
    )


@pytest.mark.parametrize("block", [InvariantBlock, VariantBlock])
@pytest.mark.parametrize("convention", ["sphere", "paper"])
def test_blocks_start_as_the_identity(block: type[nn.Module], convention: str) -> None:
    x = torch.rand(1, 16, 4, 8)
    assert torch.equal(block(16, convention)(x, geometry_encoding(convention, x)), x)


def test_bridge_is_attention_to_all_tasks() -> None:
    """Against attention written out with its softmax."""
    bridge = BridgeBlock(8, ("depth", "normals"), ("normals",), "sphere", heads=2).double()
    aggregated = torch.rand(1, 8, 4, 8, dtype=torch.float64)
    features = {task: torch.rand(1, 8, 4, 8, dtype=torch.float64) for task in ("depth", "normals")}
    tokens = aggregated.flatten(2).transpose(1, 2)
    memory = torch.cat([bridge.squeeze[t](features[t]).flatten(2).transpose(1, 2) for t in features], 1)
    memory = bridge.memory_norm(memory)
    query, key, value = bridge.query(bridge.query_norm(tokens)), bridge.key(memory), bridge.value(memory)
    attended = []
    for head in (slice(0, 4), slice(4, 8)):
        scores = (query[..., head] @ key[..., head].transpose(1, 2)) / 4**0.5
        attended.append(scores.softmax(-1) @ value[..., head])
    tokens = tokens + bridge.project(torch.cat(attended, -1))
    tokens = tokens + bridge.mlp(bridge.mlp_norm(tokens))
    torch.testing.assert_close(bridge(aggregated, features), tokens.transpose(1, 2).reshape(1, 8, 4, 8))


@pytest.mark.parametrize(
    ("name", "patch"),
    [("vit_tiny_patch16_dinov3_qkvb", 16), ("vit_tiny_patch16_224", 16), ("test_vit", 16), ("xcit_nano_12_p8_224", 8)],
)
def test_encoders_of_timm(name: str, patch: int) -> None:
    """DINOv3 with rotary positions, a plain vision transformer with learned ones."""
    encoder = ViTEncoder(name, depth=4) if name == "test_vit" else ViTEncoder(name)
    levels, class_tokens = encoder(torch.rand(2, 3, 32, 64))
    assert [tuple(level.shape) for level in levels] == [(2, encoder.channels, 32 // patch, 64 // patch)] * 4
    assert [tuple(token.shape) for token in class_tokens] == [(2, encoder.channels)] * 4
    blocks = len(encoder.vit.blocks)
    assert encoder.taps == [blocks // 4 - 1, blocks // 2 - 1, 3 * blocks // 4 - 1, blocks - 1]


def test_taps_are_the_residual_stream_before_the_final_norm() -> None:
    encoder = ViTEncoder("vit_tiny_patch16_dinov3_qkvb", width=32, depth=4, heads=2).eval()
    seen: list[torch.Tensor] = []
    for block in encoder.vit.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    levels, class_tokens = encoder(torch.rand(1, 3, 32, 64))
    for output, level, class_token in zip(seen, levels, class_tokens, strict=True):
        assert torch.equal(output[:, 5:], level.flatten(2).transpose(1, 2))
        assert torch.equal(output[:, 0], class_token)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError("not in the cache.\nTraceback"), "not in the cache"),
        (ImportError("pip install httpx[socks]"), "a SOCKS proxy needs the package socksio"),
    ],
)
def test_weights_that_cannot_be_downloaded(error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("timm.create_model", create_model)
    said = rf"^timm's weights for 'vit_tiny_patch16_224' cannot be downloaded \({reason}\): .*, or leave pretrained"
    with pytest.raises(OSError, match=said):
        ViTEncoder("vit_tiny_patch16_224", pretrained=True)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(12, 24), (6, 30), (5, 7), (1, 1)])
def test_gradient_of_resizing_by_products_is_that_of_pytorch(size, align_corners):
    x = torch.rand(2, 3, 4, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(2, 3, *size, dtype=torch.float64)
    gradients = []
    for resized in (
        BilinearByProducts.apply(x, size, align_corners),
        F.interpolate(x, size, mode="bilinear", align_corners=align_corners),
    ):
        gradients.append(torch.autograd.grad((resized * weight).sum(), x)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-6, atol=1e-6)
