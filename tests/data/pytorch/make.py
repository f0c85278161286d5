# SPDX-License-Identifier: Apache-2.0
"""Write the small PyTorch checkpoints of this folder, and what their networks predict.

FLAVR is built here a second time, from its state dict's names alone, in float64, so that the
converted parameters are held against something that shares no code with `flavr_jax`. Made with
torch 2.13.0 and numpy 2.4.6 on Python 3.11:

    python -m venv torch-env && torch-env/bin/pip install torch==2.13.0 numpy==2.4.6
    torch-env/bin/python tests/data/pytorch/make.py
"""

import sys
import types
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

FOLDER = Path(__file__).parent
BLOCKS = (2, 2, 2, 2)


class StateDict(OrderedDict):
    """Tensors whose values follow from their names, by the rule of tests/golden/README.md."""

    def add(self, name, *shape):
        random = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
        values = random.standard_normal(shape)
        if name.endswith("running_var"):
            values = 0.5 + np.abs(values)
        elif name.endswith(("bias", "running_mean")):
            values = 0.1 * values
        elif len(shape) == 1:
            values = 1 + 0.1 * values
        else:
            values = values * np.sqrt(2 / np.prod(shape[1:]))
        self[name] = torch.from_numpy(values.astype(np.float32))

    def conv(self, name, inputs, outputs, taps, bias):
        self.add(f"{name}.weight", outputs, inputs, *taps)
        if bias:
            self.add(f"{name}.bias", outputs)

    def norm(self, name, channels):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            self.add(f"{name}.{leaf}", channels)
        self[f"{name}.num_batches_tracked"] = torch.tensor(3)

    def gate(self, name, channels):
        self.conv(f"{name}.attn_layer.0", channels, channels, (1, 1, 1), bias=True)


def state_dict(width, n_outputs, encoder="r3d", concat=True, transposed=True, batch_norm=False):
    """An official FLAVR's state dict with random values."""
    state, bias = StateDict(), n_outputs > 1

    def norm(name, channels):
        if batch_norm:
            state.norm(name, channels)

    def encoder_conv(name, stage, inputs, outputs, middle):
        if encoder != "r2plus1d":
            taps = (1, 3, 3) if encoder == "mc3" and stage > 1 else (3, 3, 3)
            state.conv(name, inputs, outputs, taps, bias)
            return
        state.conv(f"{name}.0", inputs, middle, (1, 3, 3), bias=False)
        norm(f"{name}.1", middle)
        state.conv(f"{name}.3", middle, outputs, (3, 1, 1), bias=False)

    if encoder == "r2plus1d":
        middle = 45 * width // 64
        state.conv("encoder.stem.0", 3, middle, (1, 7, 7), bias=False)
        norm("encoder.stem.1", middle)
        state.conv("encoder.stem.3", middle, width, (3, 1, 1), bias=False)
        norm("encoder.stem.4", width)
    else:
        state.conv("encoder.stem.0", 3, width, (3, 7, 7), bias)
        norm("encoder.stem.1", width)
    inputs = width
    for stage, blocks in enumerate(BLOCKS, start=1):
        outputs = width * 2 ** (stage - 1)
        for block in range(blocks):
            name = f"encoder.layer{stage}.{block}"
            middle = (inputs * outputs * 27) // (inputs * 9 + 3 * outputs)
            encoder_conv(f"{name}.conv1.0", stage, inputs, outputs, middle)
            norm(f"{name}.conv1.1", outputs)
            encoder_conv(f"{name}.conv2.0", stage, outputs, outputs, middle)
            norm(f"{name}.conv2.1", outputs)
            state.gate(f"{name}.fg", outputs)
            if inputs != outputs:
                state.conv(f"{name}.downsample.0", inputs, outputs, (1, 1, 1), bias=False)
                norm(f"{name}.downsample.1", outputs)
            inputs = outputs
    growth = 2 if concat else 1
    for stage, (inputs, outputs) in enumerate([(8, 4), (4, 2), (2, 1), (1, 1), (1, 1)]):
        inputs, outputs = inputs * width * (growth if stage else 1), outputs * width
        if stage in (0, 3):
            name, first = f"decoder.{stage}.conv", 0
            state.conv(f"{name}.0", inputs, outputs, (3, 3, 3), bias=True)
        elif transposed:
            name, first = f"decoder.{stage}.upconv", 0
            state.add(f"{name}.0.weight", inputs, outputs, 3, 4, 4)
            state.add(f"{name}.0.bias", outputs)
        else:
            name, first = f"decoder.{stage}.upconv", 1
            state.conv(f"{name}.1", inputs, outputs, (1, 1, 1), bias=True)
        state.gate(f"{name}.{first + 1}", outputs)
        norm(f"{name}.{first + 2}", outputs)
    state.conv("feature_fuse.conv.0", 4 * width, width, (1, 1), bias=False)
    norm("feature_fuse.conv.1", width)
    state.conv("outconv.1", width, 3 * n_outputs, (7, 7), bias=True)
    return OrderedDict(state)


def predict(state, frames, join):
    """The network's output for frames [batch, time, height, width, 3], in float64."""
    state = {name: tensor.double() for name, tensor in state.items()}

    def conv(name, x, stride=1):
        weight = state[f"{name}.weight"]
        operator = F.conv3d if weight.ndim == 5 else F.conv2d
        stride = (1, stride, stride) if weight.ndim == 5 else stride
        same = [taps // 2 for taps in weight.shape[2:]] if name != "outconv.1" else 0
        return operator(x, weight, state.get(f"{name}.bias"), stride, same)

    def norm(name, x):
        if f"{name}.running_mean" not in state:
            return x
        leaves = [state[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var")]
        return F.batch_norm(x, *leaves, state[f"{name}.weight"], state[f"{name}.bias"])

    def gate(name, x):
        return x * torch.sigmoid(conv(f"{name}.attn_layer.0", x.mean((2, 3, 4), keepdim=True)))

    def encoder_conv(name, x, stride=1):
        if f"{name}.weight" in state:
            return conv(name, x, stride)
        x = F.relu(norm(f"{name}.1", conv(f"{name}.0", x, stride)))
        return conv(f"{name}.3", x)

    def block(name, x, stride):
        shortcut = x
        if f"{name}.downsample.0.weight" in state:
            shortcut = norm(f"{name}.downsample.1", conv(f"{name}.downsample.0", x, stride))
        y = F.relu(norm(f"{name}.conv1.1", encoder_conv(f"{name}.conv1.0", x, stride)))
        y = norm(f"{name}.conv2.1", encoder_conv(f"{name}.conv2.0", y))
        return F.relu(gate(f"{name}.fg", y) + shortcut)

    def decode(stage, x):
        name, first = f"decoder.{stage}.upconv", 0
        if stage in (0, 3):
            name = f"decoder.{stage}.conv"
            x = conv(f"{name}.0", x)
        elif f"{name}.0.weight" in state:
            weight, bias = state[f"{name}.0.weight"], state[f"{name}.0.bias"]
            x = F.conv_transpose3d(x, weight, bias, stride=(1, 2, 2), padding=1)
        else:
            first = 1
            x = F.interpolate(x, scale_factor=(1, 2, 2), mode="trilinear", align_corners=False)
            x = conv(f"{name}.1", x)
        return F.leaky_relu(norm(f"{name}.{first + 2}", gate(f"{name}.{first + 1}", x)), 0.2)

    x = frames.double().permute(0, 4, 1, 2, 3)
    mean = x.mean((2, 3, 4), keepdim=True)
    x = conv("encoder.stem.0", x - mean, 2)
    x = F.relu(norm("encoder.stem.1", x))
    if "encoder.stem.3.weight" in state:
        x = F.relu(norm("encoder.stem.4", conv("encoder.stem.3", x)))
    skips = [x]
    for stage, blocks in enumerate(BLOCKS, start=1):
        for index in range(blocks):
            strided = stage in (2, 3) and index == 0
            x = block(f"encoder.layer{stage}.{index}", x, 2 if strided else 1)
        skips.append(x)
    x = decode(0, skips.pop())
    for stage in (1, 2, 3, 4):
        skip = skips.pop()
        joined = {"concat": torch.cat([x, skip], 1), "none": x}
        x = decode(stage, joined[join] if join in joined else x + skip)
    x = x.transpose(1, 2).flatten(1, 2)
    x = F.leaky_relu(norm("feature_fuse.conv.1", conv("feature_fuse.conv.0", x)), 0.2)
    x = conv("outconv.1", F.pad(x, (3, 3, 3, 3), mode="reflect"))
    x = x.unflatten(1, (-1, 3)) + mean[:, None, :, 0]
    return x.permute(0, 1, 3, 4, 2)


def mmagic_name(name):
    """What mmagic calls an official tensor."""
    head, _, leaf = name.rpartition(".")
    if head.startswith("encoder.stem.") or ".conv1." in head or ".conv2." in head:
        head = f"{head.removesuffix('.0')}.conv".replace("stem", "stem_layer")
    elif ".downsample." in head:
        head = f"{head.removesuffix('.0')}.conv"
    head = head.replace("decoder.", "decoder.layer").replace(
        "feature_fuse.conv.0", "feature_fuse.conv"
    )
    return f"generator.{head.replace('outconv', 'conv_last')}.{leaf}"


def history_buffer():
    """A look-alike of what mmengine keeps of a loss curve, under its full name."""
    module = types.ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = type("HistoryBuffer", (), {"__module__": module.__name__})
    sys.modules |= {"mmengine": module, "mmengine.logging": module, module.__name__: module}
    buffer = module.HistoryBuffer()
    buffer._log_history = np.array([0.5, 0.25])
    return buffer


def main():
    frames = torch.rand(1, 4, 16, 24, 3, generator=torch.Generator().manual_seed(0))
    outputs = {}

    def save(name, state, checkpoint, join="concat", **options):
        outputs[name] = predict(state, frames, join).float().numpy()
        torch.save(checkpoint, FOLDER / f"{name}.pth", **options)

    state = state_dict(width=1, n_outputs=7)
    parameters = [torch.nn.Parameter(torch.ones(3, 7)), torch.nn.Parameter(torch.ones(3))]
    optimizer = torch.optim.Adam(parameters, lr=2e-4, betas=(0.9, 0.99))
    sum(parameter.sum() for parameter in parameters).backward()
    optimizer.step()
    save(
        "official_8x_legacy",
        state,
        {
            "epoch": 115,
            "state_dict": OrderedDict((f"module.{key}", value) for key, value in state.items()),
            "optimizer": optimizer.state_dict(),
            "best_psnr": 31.3125,
            "lr": 2.5e-05,
        },
        _use_new_zipfile_serialization=False,
    )
    state = OrderedDict((k, v.half()) for k, v in state_dict(width=2, n_outputs=1).items())
    save("official_2x_half", state, state)
    state = state_dict(2, 1, "r2plus1d", concat=False, transposed=False, batch_norm=True)
    state = OrderedDict((k, v.bfloat16() if v.ndim else v) for k, v in state.items())
    save(
        "r2plus1d_2x_bfloat16",
        state,
        {"state_dict": state},
        join="add",
        _use_new_zipfile_serialization=False,
    )
    state = state_dict(1, 1, "mc3", concat=False)
    # Views of one storage, strided and offset, as parameters kept in one buffer are saved.
    flat = torch.cat([tensor.flatten() for tensor in state.values()])
    views = flat.split([tensor.numel() for tensor in state.values()])
    shared = OrderedDict(
        (name, view.view(tensor.shape)) for (name, tensor), view in zip(state.items(), views)
    )
    gate = "encoder.layer4.1.fg.attn_layer.0.weight"
    shared[gate] = state[gate].transpose(0, 1).contiguous().transpose(0, 1)
    save("mc3_2x_views", state, shared, join="none")
    state = state_dict(width=1, n_outputs=1)
    save(
        "mmagic_2x",
        state,
        {
            "meta": {"epoch": 7, "iter": np.int64(1000), "mmengine_version": "0.10.1"},
            "state_dict": OrderedDict((mmagic_name(key), value) for key, value in state.items()),
            "message_hub": {"log_scalars": OrderedDict({"train/loss": history_buffer()})},
        },
    )
    np.savez_compressed(FOLDER / "outputs.npz", frames=frames.numpy(), **outputs)


if __name__ == "__main__":
    main()
