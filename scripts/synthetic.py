#!/usr/bin/env python3
"""Prints the folder of the synthetic models that the memory plan is compared with llama.cpp on; writes them if missing.

Each has the shape of a real architecture and a few layers. Most have nothing but zeros for weights: the files are sparse
and take next to no disk. Those in NOISE have random ones, so that what they compute depends on all they were given, for
tests that compare answers. In `split/` is the real small model again, in three files. All are written with the `gguf` package, the
reference writer of the format, and kept in the user's cache folder under a name that changes with this script.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import model
from common import VENV_PYTHON, cache_dir, fail

VOCAB = 8192


def folder():
    """The folder with all models in it."""
    key = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    models = cache_dir() / "models" / f"synthetic-{key}"
    if not models.is_dir():
        models.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="writing-", dir=models.parent) as temp:
            made = Path(temp) / "models"
            made.mkdir()
            # `gguf` lives in the private environment.
            if subprocess.run([VENV_PYTHON, __file__, "--write", made, model.path()], stdout=sys.stderr).returncode != 0:
                fail("could not write the synthetic models; the lines above say why")
            try:
                made.rename(models)
            except OSError:
                if not models.is_dir():  # Another run may have been quicker.
                    raise
    return models


class Model:
    """A model under construction: keys of its architecture, and tensors of zeros."""

    def __init__(self, arch, layers, width, context=4096, vocab=VOCAB, **keys):
        self.arch, self.layers, self.width, self.vocab = arch, layers, width, vocab
        self.keys = {"context_length": context, "embedding_length": width, "block_count": layers, **keys}
        self.tensors = []
        self.tokenizer = "gpt2"

    def tensor(self, name, *shape, kind="F32"):
        """`shape` as ggml counts it: the contiguous dimension first."""
        self.tensors.append((name, shape, kind))

    def matrix(self, name, rows_in, rows_out, kind="Q4_K", bias=False):
        self.tensor(f"{name}.weight", rows_in, rows_out, kind=kind)
        if bias:
            self.tensor(f"{name}.bias", rows_out)

    def norm(self, name, width=None, bias=False):
        self.tensor(f"{name}.weight", width or self.width)
        if bias:
            self.tensor(f"{name}.bias", width or self.width)

    def ends(self, kind="Q4_K", tied=False, bias=False):
        self.tensor("token_embd.weight", self.width, self.vocab, kind=kind)
        self.norm("output_norm", bias=bias)
        if not tied:
            self.matrix("output", self.width, self.vocab, kind)

    def attention(self, blk, heads, kv_heads, head, kind="Q4_K", bias=False, fused=False, qk_norm=False, out_bias=False):
        q, kv = heads * head, kv_heads * head
        if fused:
            self.matrix(f"{blk}.attn_qkv", self.width, q + 2 * kv, kind, bias)
        else:
            for name, width in (("q", q), ("k", kv), ("v", kv)):
                self.matrix(f"{blk}.attn_{name}", self.width, width, kind, bias)
        if qk_norm:
            self.norm(f"{blk}.attn_q_norm", head)
            self.norm(f"{blk}.attn_k_norm", head)
        self.matrix(f"{blk}.attn_output", q, self.width, kind, out_bias)

    def feed_forward(self, blk, hidden, kind="Q4_K", gate=True, fused=False, bias=False):
        if gate and not fused:
            self.matrix(f"{blk}.ffn_gate", self.width, hidden, kind)
        self.matrix(f"{blk}.ffn_up", self.width, 2 * hidden if fused else hidden, kind, bias)
        self.matrix(f"{blk}.ffn_down", hidden, self.width, kind, bias)

    def experts(self, blk, count, hidden, kind="Q4_K"):
        self.tensor(f"{blk}.ffn_gate_inp.weight", self.width, count)
        for name in ("gate", "up"):
            self.tensor(f"{blk}.ffn_{name}_exps.weight", self.width, hidden, count, kind=kind)
        self.tensor(f"{blk}.ffn_down_exps.weight", hidden, self.width, count, kind=kind)

    def write(self, path):
        import gguf

        writer = gguf.GGUFWriter(path, self.arch)
        # llama.cpp expects certain tokens of models with certain names.
        writer.add_name("synthetic")
        for key, value in self.keys.items():
            key = f"{self.arch}.{key}"
            if isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, int):
                writer.add_uint32(key, value)
            elif isinstance(value, float):
                writer.add_float32(key, value)
            else:
                writer.add_array(key, value)
        self.write_vocabulary(writer)
        for name, shape, kind in self.tensors:
            quantized = gguf.GGMLQuantizationType[kind]
            block, size = gguf.GGML_QUANT_SIZES[quantized]
            elements = 1
            for n in shape:
                elements *= n
            bytes_shape = list(reversed(shape))
            bytes_shape[-1] = bytes_shape[-1] // block * size
            dtype = {"F32": "float32", "F16": "float16"}.get(kind)
            import numpy as np

            if dtype:
                writer.add_tensor_info(name, list(reversed(shape)), np.dtype(dtype), elements * size, None)
            else:
                writer.add_tensor_info(name, bytes_shape, np.dtype("uint8"), elements // block * size, quantized)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for out in writer.fout:
            out.flush()
            # The data: zeros that the file system does not store.
            end = -(-out.tell() // 32) * 32
            sizes = (ti.nbytes for ti in writer.tensors[0].values())
            os.truncate(path, end + sum(-(-size // 32) * 32 for size in sizes))
        writer.close()

    def write_vocabulary(self, writer):
        if self.tokenizer == "bert":
            tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"\u2581t{i}" for i in range(self.vocab - 5)]
            writer.add_tokenizer_model("bert")
            writer.add_token_list(tokens)
            writer.add_token_types([3] * 5 + [1] * (self.vocab - 5))
            writer.add_token_type_count(2)
            for name, token in (("bos", 2), ("eos", 3), ("unk", 1), ("pad", 0), ("mask", 4)):
                getattr(writer, f"add_{name}_token_id")(token)
            writer.add_sep_token_id(3)
            return
        tokens = ["<s>", "</s>"] + [f"t{i}" for i in range(self.vocab - 2)]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        writer.add_token_types([3, 3] + [1] * (self.vocab - 2))
        writer.add_token_merges(["t 1"])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)


def fill(path):
    """Random weights in place of the zeros, the same on every machine."""
    import gguf
    import numpy as np

    random = np.random.default_rng(1)
    for tensor in gguf.GGUFReader(path, "r+").tensors:
        kind, data = tensor.tensor_type.name, tensor.data
        if kind == "Q4_K":
            # Blocks of two halves (scale and least value), 12 bytes of smaller scales and minima, 128 of 4-bit numbers:
            # any bytes will do for these, and the halves make the weights small, with a mean of zero.
            blocks = random.integers(0, 256, data.shape, dtype=np.uint8).reshape(-1, 144)
            blocks[:, :4] = np.frombuffer(np.array([2e-4, 1.5e-3], np.float16).tobytes(), np.uint8)
            data[:] = blocks.reshape(data.shape)
        elif kind == "Q6_K":
            # Numbers of 6 bits, 16 scales of 8, and the half that they are multiplied with.
            blocks = random.integers(0, 256, data.shape, dtype=np.uint8).reshape(-1, 210)
            blocks[:, 208:] = np.frombuffer(np.array([3e-5], np.float16).tobytes(), np.uint8)
            data[:] = blocks.reshape(data.shape)
        elif kind != "F32":
            weights = random.normal(0, 0.04, tensor.shape[::-1]).astype(np.float32)
            data[:] = gguf.quants.quantize(weights, tensor.tensor_type)
        elif tensor.name.endswith(("norm.weight", "ssm_d")):
            data[:] = 1
        elif tensor.name.endswith("ssm_a"):
            data[:] = -random.uniform(0.1, 1, data.shape)
        else:
            data[:] = random.normal(0, 0.1, data.shape)
        data.flush()


def heads(count, kv, **more):
    return {"attention.head_count": count, "attention.head_count_kv": kv, **more}


RMS = {"attention.layer_norm_rms_epsilon": 1e-5}
LAYER = {"attention.layer_norm_epsilon": 1e-5}


def dense(arch, layers, width, sizes, kind="Q4_K", ends=None, attention=None, feed=None, post_norms=False, bias=False, **keys):
    """A plain decoder. `sizes`: query heads, key-value heads, elements of a head, inner width of the feed-forward part."""
    count, kv, head, hidden = sizes
    norms = LAYER if bias else RMS
    made = Model(arch, layers, width, feed_forward_length=hidden, **heads(count, kv), **norms, **keys)
    made.ends(kind=kind, **(ends or {}))
    for blk in blocks(made):
        made.norm(f"{blk}.attn_norm", bias=bias)
        made.attention(blk, count, kv, head, kind=kind, **(attention or {}))
        if post_norms:
            made.norm(f"{blk}.post_attention_norm")
        made.norm(f"{blk}.ffn_norm", bias=bias)
        made.feed_forward(blk, hidden, kind=kind, **(feed or {}))
        if post_norms:
            made.norm(f"{blk}.post_ffw_norm")
    return made


def head_size(size, **more):
    return {"attention.key_length": size, "attention.value_length": size, **more}


def llama():
    return dense("llama", 4, 1024, (16, 4, 64, 2816), **{"rope.dimension_count": 64})


def qwen2():
    return dense("qwen2", 4, 896, (14, 2, 64, 4864), "Q8_0", {"tied": True}, {"bias": True})


def qwen3():
    keys = head_size(128, **{"rope.dimension_count": 128})
    return dense("qwen3", 4, 1024, (16, 8, 128, 3072), "Q6_K", attention={"qk_norm": True}, **keys)


def gemma2():
    caps = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    keys = head_size(256, **{"attention.sliding_window": 512}, **caps)
    return dense("gemma2", 4, 1024, (8, 4, 256, 4096), "Q4_0", {"tied": True}, post_norms=True, **keys)


def gemma3():
    keys = head_size(256, **{"attention.sliding_window": 512})
    return dense("gemma3", 7, 640, (4, 1, 256, 2048), "Q8_0", {"tied": True}, {"qk_norm": True}, post_norms=True, **keys)


def phi3():
    keys = {"rope.dimension_count": 64, "rope.scaling.original_context_length": 4096}
    return dense("phi3", 3, 1024, (16, 16, 64, 2816), attention={"fused": True}, feed={"fused": True}, **keys)


def gpt2():
    projections = {"fused": True, "bias": True, "out_bias": True}
    ends, feed = {"bias": True}, {"gate": False, "bias": True}
    made = dense("gpt2", 3, 768, (12, 12, 64, 3072), "F16", ends, projections, feed, bias=True, context=1024)
    made.tensor("position_embd.weight", 768, 1024)
    return made


def qwen3moe():
    experts = {"expert_count": 16, "expert_used_count": 4, "expert_feed_forward_length": 768}
    keys = head_size(128, **{"rope.dimension_count": 128}, **experts)
    made = Model("qwen3moe", 3, 1024, feed_forward_length=3072, **heads(16, 4), **keys, **RMS)
    made.ends()
    for blk in blocks(made):
        made.norm(f"{blk}.attn_norm")
        made.attention(blk, 16, 4, 128, qk_norm=True)
        made.norm(f"{blk}.ffn_norm")
        made.experts(blk, 16, 768)
    return made


def mamba_layer(made, blk, inner, state, rank, conv, norms=False, kind="Q4_K"):
    made.matrix(f"{blk}.ssm_in", made.width, 2 * inner, kind)
    made.tensor(f"{blk}.ssm_conv1d.weight", conv, inner)
    made.tensor(f"{blk}.ssm_conv1d.bias", inner)
    made.matrix(f"{blk}.ssm_x", inner, rank + 2 * state, kind)
    made.matrix(f"{blk}.ssm_dt", rank, inner, "F32", bias=True)
    made.tensor(f"{blk}.ssm_a", state, inner)
    made.tensor(f"{blk}.ssm_d", inner)
    made.matrix(f"{blk}.ssm_out", inner, made.width, kind)
    if norms:
        for name, width in (("dt", rank), ("b", state), ("c", state)):
            made.norm(f"{blk}.ssm_{name}_norm", width)


def mamba2_layer(made, blk, inner, state, groups, ranks, conv, kind="Q4_K"):
    width = inner + 2 * groups * state
    made.matrix(f"{blk}.ssm_in", made.width, 2 * inner + 2 * groups * state + ranks, kind)
    made.tensor(f"{blk}.ssm_conv1d.weight", conv, width)
    made.tensor(f"{blk}.ssm_conv1d.bias", width)
    made.tensor(f"{blk}.ssm_dt.bias", ranks)
    made.tensor(f"{blk}.ssm_a", 1, ranks)
    made.tensor(f"{blk}.ssm_d", 1, ranks)
    made.tensor(f"{blk}.ssm_norm.weight", inner // groups, groups)
    made.matrix(f"{blk}.ssm_out", inner, made.width, kind)


def mamba():
    sizes = {"ssm.conv_kernel": 4, "ssm.inner_size": 1536, "ssm.state_size": 16, "ssm.time_step_rank": 48}
    made = Model("mamba", 4, 768, **sizes, **RMS)
    made.ends()
    for blk in blocks(made):
        made.norm(f"{blk}.attn_norm")
        mamba_layer(made, blk, 1536, 16, 48, 4)
    return made


def mamba2():
    sizes = {"ssm.conv_kernel": 4, "ssm.inner_size": 1536, "ssm.state_size": 128, "ssm.time_step_rank": 24}
    made = Model("mamba2", 4, 768, **sizes, **{"ssm.group_count": 1}, **RMS)
    made.ends()
    for blk in blocks(made):
        made.norm(f"{blk}.attn_norm")
        mamba2_layer(made, blk, 1536, 128, 1, 24, 4)
    return made


def jamba():
    sizes = {"ssm.conv_kernel": 4, "ssm.inner_size": 1024, "ssm.state_size": 16, "ssm.time_step_rank": 32}
    experts = {"expert_count": 4, "expert_used_count": 2}
    made = Model("jamba", 4, 512, feed_forward_length=1536, **sizes, **experts, **heads(8, [0, 0, 2, 0]), **RMS)
    made.ends()
    for layer, blk in enumerate(blocks(made)):
        made.norm(f"{blk}.attn_norm")
        if layer == 2:
            made.attention(blk, 8, 2, 64)
        else:
            mamba_layer(made, blk, 1024, 16, 32, 4, norms=True)
        made.norm(f"{blk}.ffn_norm")
        if layer % 2:
            made.experts(blk, 4, 1536)
        else:
            made.feed_forward(blk, 1536)
    return made


def granitehybrid():
    sizes = {"ssm.conv_kernel": 4, "ssm.inner_size": 1536, "ssm.state_size": 128, "ssm.time_step_rank": 24}
    scales = {"logit_scale": 1.0, "residual_scale": 1.0, "embedding_scale": 1.0, "attention.scale": 1.0}
    made = Model("granitehybrid", 4, 768, feed_forward_length=2048, **sizes, **heads(12, [0, 0, 4, 0]), **scales, **RMS)
    made.keys["ssm.group_count"] = 1
    made.keys["rope.dimension_count"] = 64
    made.ends()
    for layer, blk in enumerate(blocks(made)):
        made.norm(f"{blk}.attn_norm")
        if layer == 2:
            made.attention(blk, 12, 4, 64)
        else:
            mamba2_layer(made, blk, 1536, 128, 1, 24, 4)
        made.norm(f"{blk}.ffn_norm")
        made.feed_forward(blk, 2048)
    return made


def bert():
    made = Model("bert", 4, 384, context=512, feed_forward_length=1536, **heads(12, 12), **LAYER)
    made.keys |= {"attention.causal": False, "pooling_type": 1}
    made.tokenizer = "bert"
    made.tensor("token_embd.weight", 384, VOCAB, kind="F16")
    made.tensor("position_embd.weight", 384, 512)
    made.tensor("token_types.weight", 384, 2)
    made.norm("token_embd_norm", bias=True)
    for blk in blocks(made):
        made.attention(blk, 12, 12, 32, kind="F16", bias=True, out_bias=True)
        made.norm(f"{blk}.attn_output_norm", bias=True)
        made.feed_forward(blk, 1536, kind="F16", gate=False, bias=True)
        made.norm(f"{blk}.layer_output_norm", bias=True)
    return made


def deepseek2():
    """Latent attention: keys hold the values, compressed. Its graph is not mirrored, so its plan is an estimate."""
    latent = {"attention.q_lora_rank": 0, "attention.kv_lora_rank": 256, "rope.dimension_count": 32}
    sizes = {"attention.key_length": 288, "attention.value_length": 256}
    sizes |= {"attention.key_length_mla": 96, "attention.value_length_mla": 64}
    experts = {"expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 512, "expert_shared_count": 1}
    gating = {"leading_dense_block_count": 1, "expert_weights_scale": 1.0, "expert_gating_func": 1}
    made = Model("deepseek2", 3, 512, feed_forward_length=1536, **heads(8, 1), **latent, **sizes, **experts, **gating, **RMS)
    made.ends()
    for layer, blk in enumerate(blocks(made)):
        made.norm(f"{blk}.attn_norm")
        made.matrix(f"{blk}.attn_q", 512, 8 * 96)
        made.matrix(f"{blk}.attn_kv_a_mqa", 512, 256 + 32)
        made.norm(f"{blk}.attn_kv_a_norm", 256)
        made.tensor(f"{blk}.attn_k_b.weight", 64, 256, 8, kind="Q8_0")
        made.tensor(f"{blk}.attn_v_b.weight", 256, 64, 8, kind="Q8_0")
        made.matrix(f"{blk}.attn_output", 8 * 64, 512)
        made.norm(f"{blk}.ffn_norm")
        if layer == 0:
            made.feed_forward(blk, 1536)
        else:
            made.experts(blk, 8, 512)
            for name, rows_in, rows_out in (("gate", 512, 512), ("up", 512, 512), ("down", 512, 512)):
                made.matrix(f"{blk}.ffn_{name}_shexp", rows_in, rows_out)
    return made


def copy_keys(reader, writer, left_out=()):
    """The keys of a file's header, but these, for a file that is made of it."""
    for field in reader.fields.values():
        # The writer adds these itself.
        if not field.name.startswith("GGUF.") and field.name not in ("general.architecture", *left_out):
            kind, *sub = field.types
            writer.add_key_value(field.name, field.contents(), kind, sub_type=sub[-1] if sub else None)


def split(source, folder):
    """The same model in three files."""
    import gguf

    folder.mkdir()
    reader = gguf.GGUFReader(source)
    arch = reader.fields["general.architecture"].contents()
    tensors = -(-len(reader.tensors) // 3)
    writer = gguf.GGUFWriter(folder / "SmolLM2.gguf", arch, split_max_tensors=tensors)
    copy_keys(reader, writer)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def blocks(made):
    return [f"blk.{layer}" for layer in range(made.layers)]


MODELS = [llama, qwen2, qwen3, qwen3moe, gemma2, gemma3, phi3, gpt2, mamba, mamba2, jamba, granitehybrid, bert, deepseek2]
NOISE = [llama, gemma3, mamba2, jamba, granitehybrid]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        for make in MODELS:
            path = Path(sys.argv[2]) / f"{make.__name__}.gguf"
            make().write(path)
            if make in NOISE:
                fill(path)
        split(sys.argv[3], Path(sys.argv[2]) / "split")
    else:
        print(folder())
