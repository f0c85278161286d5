# SPDX-License-Identifier: Apache-2.0
"""The warping head in PyTorch, as the last part of the peer; see :mod:`flavr_jax.models.head`.

Look-ups are ``grid_sample``, enlargements ``interpolate``, smaller versions ``avg_pool2d``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flavr_jax.config import LookConfig
from flavr_jax.models.look import CHANNELS, UNIT

if TYPE_CHECKING:
    from flavr_jax.profiling.torch_peer import TorchPeer

__all__ = ["frames"]

_PAIR = 6  # raw outputs of each further pair of flows
_GREY = 0.5
_NOTICEABLE, _CELL, _AROUND = 4 / 255, 8, 3  # of `flavr_jax.models.still`


def frames(peer: TorchPeer, raw: Any, features: Any, windows: Any, times: Any) -> Any:
    """Predict frames at given times.

    Args:
        peer: has the network's settings and weights.
        raw: float32 raw outputs of the trunk ``[batch, output, 8, height, width]``.
        features: what they were computed from, ``[batch, channel, height, width]``.
        windows: the input frames, float32 ``[batch, 3, time, full_height, full_width]``.
        times: times of the outputs, inside (0, 1), float32 ``[batch, output]``.

    Returns:
        a float32 tensor ``[batch, output, 3, full_height, full_width]``.
    """
    torch, config = peer.torch, peer.config
    middle, shape = windows.shape[2] // 2, raw.shape[:2]
    pair = [windows[:, :, n] for n in (middle - 1, middle)]
    share = times.reshape(-1, 1, 1, 1)
    fields, scale = raw.flatten(0, 1), config.trunk_scale  # frames are `scale` times larger
    for number, look in enumerate(config.looks):
        last = number == len(config.looks) - 1
        predicted = CHANNELS + _PAIR * (config.flow_pairs - 1) * last
        seen = _smaller(torch, fields, look.scale // scale)
        seen = _enlarged(torch, seen, scale // look.scale)
        found = _correction(peer, number, look, pair, seen, features, share)
        if look.scale < scale:
            fields, scale = seen, look.scale
        found = _enlarged(torch, found, look.scale // scale)
        missing = predicted - fields.shape[1]
        fields = torch.nn.functional.pad(fields, (0, 0, 0, 0, 0, missing)) + found
    mixed = _mixed(torch, pair, _enlarged(torch, fields, scale), share, shape[1])
    if config.keep_still:
        keep = _each(_standing(torch, windows), shape[1])
        before, after = (_each(image, shape[1]) for image in pair)
        mixed = (1 - keep) * mixed + keep * ((1 - share) * before + share * after)
    return mixed.unflatten(0, shape)


def _correction(
    peer: TorchPeer,
    number: int,
    look: LookConfig,
    pair: list[Any],
    seen: Any,
    features: Any,
    share: Any,
) -> Any:
    """Corrections of a look, ``[image, predicted, height, width]`` at the size of ``seen``."""
    torch, path = peer.torch, f"head/looks/{number}"
    fold = look.folded(peer.config.trunk_scale)
    count = seen.shape[0] // features.shape[0]
    small = [_each(_smaller(torch, image, look.scale), count) for image in pair]
    unit = UNIT / look.scale
    warped = [
        _looked_up(torch, small[0], seen[:, 3:5] * (unit * share)),
        _looked_up(torch, small[1], seen[:, 5:7] * (unit * (1 - share))),
    ]
    images = [image - _GREY for image in (*warped, *small)]
    x = _folded(torch.cat([*images, seen], 1).to(peer.dtype), fold)
    context = _smaller(torch, features, look.times_smaller(peer.config.trunk_scale))
    context = _each(peer.conv2d(f"{path}/context", context), count)
    x = peer.leaky(peer.conv2d(f"{path}/read", x) + context)
    for layer in range(look.layers):
        x = peer.leaky(peer.conv2d(f"{path}/hidden/{layer}", x))
    return _unfolded(peer.conv2d(f"{path}/correct", x).float(), fold)


def _mixed(torch: Any, pair: list[Any], fields: Any, share: Any, count: int) -> Any:
    """Both images looked up at all pairs of flows, mixed, plus the residual colour."""
    logit = fields[:, 7:8] + torch.log((1 - share) / share)
    flows, logits = [fields[:, 3:7]], [logit, torch.zeros_like(logit)]
    for start in range(CHANNELS, fields.shape[1], _PAIR):
        flows.append(flows[0] + fields[:, start : start + 4])
        logits += [logit + fields[:, start + 4 : start + 5], fields[:, start + 5 : start + 6]]
    weights = torch.softmax(torch.cat(logits, 1), 1)
    mixed, reach = fields[:, :3], (UNIT * share, UNIT * (1 - share))
    images = [_each(image, count) for image in pair]
    for number in range(weights.shape[1]):
        further, side = divmod(number, 2)
        flow = flows[further][:, 2 * side : 2 * side + 2] * reach[side]
        mixed = mixed + weights[:, number : number + 1] * _looked_up(torch, images[side], flow)
    return mixed


def _looked_up(torch: Any, images: Any, flow: Any) -> Any:
    """Images at displaced positions, bilinearly and clamped to the border."""
    height, width = images.shape[2:]
    x = torch.arange(width, device=flow.device) + flow[:, 0]
    y = torch.arange(height, device=flow.device)[:, None] + flow[:, 1]
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)
    return torch.nn.functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="border", align_corners=True
    )


def _standing(torch: Any, windows: Any) -> Any:
    """How far each pixel stands still; :func:`flavr_jax.models.still.standing` is the same."""
    change = (windows.amax(2) - windows.amin(2)).amax(1, keepdim=True)
    change = change / (change + _NOTICEABLE)
    around = torch.nn.functional.pad(_smaller(torch, change, _CELL), (_AROUND,) * 4, "replicate")
    around = torch.nn.functional.avg_pool2d(around, 2 * _AROUND + 1, stride=1)
    around = _enlarged(torch, around, _CELL)
    moving = ((around - 0.15) / (0.35 - 0.15)).clamp(0.0, 1.0)
    return (1 - change) ** 4 * torch.where(around < 0.002, 1.0, moving)


def _smaller(torch: Any, x: Any, scale: int) -> Any:
    return torch.nn.functional.avg_pool2d(x, scale) if scale > 1 else x


def _enlarged(torch: Any, x: Any, scale: int) -> Any:
    if scale <= 1:
        return x
    return torch.nn.functional.interpolate(
        x, scale_factor=scale, mode="bilinear", align_corners=False
    )


def _each(x: Any, count: int) -> Any:
    """Each sample's image for each of its outputs."""
    return x if count == 1 else x.repeat_interleave(count, 0)


def _folded(x: Any, fold: int) -> Any:
    """``fold × fold`` pixels as the channels of one, those of the first pixel first."""
    if fold == 1:
        return x
    count, channels, height, width = x.shape
    x = x.reshape(count, channels, height // fold, fold, width // fold, fold)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(count, -1, height // fold, width // fold)


def _unfolded(x: Any, fold: int) -> Any:
    """The inverse of :func:`_folded`."""
    if fold == 1:
        return x
    count, _, height, width = x.shape
    x = x.reshape(count, fold, fold, -1, height, width).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(count, -1, height * fold, width * fold)
