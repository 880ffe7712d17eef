"""Prints the paths of the small model in other quantisations, to be compared on: Q4_0 and Q8_0, or those that are named. They are
kept in the user's cache folder. Run by the Python of `.venv`, which has gguf."""

import sys
from pathlib import Path

import gguf
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import model  # noqa: E402
import synthetic  # noqa: E402

# Types that gguf writes.
KINDS = {"Q4_0": gguf.GGMLQuantizationType.Q4_0, "Q8_0": gguf.GGMLQuantizationType.Q8_0}


def write(source, target, kind):
    """Every matrix in this type, the rest as it is."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    synthetic.copy_keys(reader, writer, left_out=["general.file_type"])
    for tensor in reader.tensors:
        if len([n for n in tensor.shape if n > 1]) < 2:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
            continue
        exact = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, gguf.quants.quantize(exact, KINDS[kind]), raw_dtype=KINDS[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def requantised(source, kind):
    target = source.with_name(source.name.replace("Q4_1", kind))
    if not target.is_file():
        unfinished = target.with_suffix(".writing")
        write(source, unfinished, kind)
        unfinished.rename(target)
    return target


if __name__ == "__main__":
    small = Path(model.path())
    print(*(requantised(small, kind) for kind in sys.argv[1:] or KINDS))
