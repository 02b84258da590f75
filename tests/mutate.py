"""Take a model file apart into dicts, change it, and put it together again with right checksums."""
from __future__ import annotations

import zlib

import flatbuffers
import numpy as np

from edgerun import flat
from edgerun.model import PAGE
from edgerun.tools import blob


def unpack(data: bytes) -> tuple[dict, dict]:
    """Return the Model table and the Graph table as dicts."""
    root = flat.Reader(np.frombuffer(data, np.uint8), "mutate").root("Model")
    graph = flat.Reader(root["graph"], "mutate").root("Graph")
    return root, graph


def encode_graph(graph: dict) -> bytes:
    """Return the bytes of a Graph table."""
    builder = flatbuffers.Builder(4096)
    builder.Finish(blob.encode_table(builder, "Graph", graph))
    return bytes(builder.Output())


def repack(root: dict, graph: dict | bytes, identifier: bytes = b"EDGR") -> bytes:
    """Return a file of the two tables; the checksums of graph, segments and parts of segments are
    computed anew."""
    graph_bytes = graph if isinstance(graph, bytes) else encode_graph(graph)
    builder = flatbuffers.Builder(4096)
    values = dict(root, graph_crc32=zlib.crc32(graph_bytes))
    values["graph"] = blob.aligned_bytes(builder, np.frombuffer(graph_bytes, np.uint8), 8)
    values["segments"] = [_summed(s) | {"data": blob.aligned_bytes(builder, s["data"], PAGE)}
                          for s in root["segments"]]
    builder.Finish(blob.encode_table(builder, "Model", values), identifier)
    return bytes(builder.Output())


def _summed(segment: dict) -> dict:
    """Return a segment with its checksum; with those of its parts too if its data was changed."""
    data, parts = segment["data"], segment.get("parts", ())
    total = zlib.crc32(data)
    if total != segment.get("crc32") and sum(part["bytes"] for part in parts) == len(data):
        ends = np.cumsum([part["bytes"] for part in parts]).tolist()
        parts = [dict(part, crc32=zlib.crc32(data[end - part["bytes"]:end]))
                 for part, end in zip(parts, ends)]
    return dict(segment, crc32=total, parts=parts)


def changed(data: bytes, change) -> bytes:
    """Return the file after change(root, graph) has altered its tables in place."""
    root, graph = unpack(data)
    change(root, graph)
    return repack(root, graph)
