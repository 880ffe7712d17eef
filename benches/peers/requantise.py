"""The small model in other quantisations, to be compared on: kept in the user's cache folder. Run by the Python of `.venv`, which has gguf."""

import sys
from pathlib import Path

import gguf
import numpy as np

# Types that gguf writes.
KINDS = {"Q4_0": gguf.GGMLQuantizationType.Q4_0, "Q8_0": gguf.GGMLQuantizationType.Q8_0}


def write(source, target, kind):
    """Every matrix in this type, the rest as it is."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        # The writer adds these itself.
        if not field.name.startswith("GGUF.") and field.name not in ("general.architecture", "general.file_type"):
            kind_of, *sub = field.types
            writer.add_key_value(field.name, field.contents(), kind_of, sub_type=sub[-1] if sub else None)
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


if __name__ == "__main__":
    source, kind = Path(sys.argv[1]), sys.argv[2]
    target = source.with_name(source.name.replace("Q4_1", kind))
    if not target.is_file():
        unfinished = target.with_suffix(".writing")
        write(source, unfinished, kind)
        unfinished.rename(target)
    print(target)
