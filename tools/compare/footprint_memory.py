"""Sections of docs/footprint.md: memory beside other runtimes, and how the file is read."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgerun import text
from edgerun.tools.compare.report import PEER_NAMES, table

Document = Mapping[str, Any]


def memory(document: Document) -> list[str]:
    """Return the section on memory beside other runtimes."""
    results = [r for r in document["results"] if not r["error"]]
    lines = [
        "## Beside other runtimes", "",
        "What loading a model and running it five times adds to a process, each runtime in a "
        "process of its own, imported before anything is measured, with two threads. PSS counts "
        "every page of memory, one that is shared by its share; anonymous memory is what no file "
        "backs: the system cannot drop it. edgerun's own part is what comes on top of an open "
        "device that has compiled and run one trivial kernel; the driver's part, which is the same "
        "for every model, is in the last column. Kernels come from the cache on disk. In brackets: "
        "how many times as much as edgerun, on the driver where edgerun takes more. To measure "
        "again:", "",
        "    python -m edgerun.tools.compare.memory squeezenet resnet18 mobilenetv2 alexnet "
        "--device portable,intel --peers onnxruntime,openvino,mnn,ncnn --json "
        "docs/footprint/memory.json", "",
        f"Measured on {document['machine']['cpu']}, {document['machine']['date']}.", ""]
    rows = []
    for result in results:
        own = [r["run"] for r in results
               if r["model"] == result["model"] and r["runtime"] == "edgerun"]
        rows.append([
            result["model"], _name(result), text.size(result["load"]["pss_bytes"]),
            *(_times(result, own, key) for key in ("pss_bytes", "anonymous_bytes")),
            "-" if result["peak_bytes"] is None else text.size(result["peak_bytes"]),
            text.size(result["driver"]["pss_bytes"]) if result["driver"] else ""])
    lines += table(["model", "runtime", "loaded, PSS", "run, PSS", "run, anonymous",
                    "peak resident", "driver, PSS"], rows, left=2)
    missing = [f"{_name(r)} on {r['model']}: {r['error']}" for r in document["results"]
               if r["error"]]
    return lines + ([f"Not measured: {'; '.join(missing)}.", ""] if missing else [])


def _name(result: Document) -> str:
    return (f"edgerun, {result['device']}" if result["runtime"] == "edgerun"
            else PEER_NAMES[result["runtime"]])


def _times(result: Document, own: list[Document], key: str) -> str:
    size = text.size(result["run"][key])
    if result["runtime"] == "edgerun":
        return f"**{size}**"
    return f"{size} ({result['run'][key] / max(o[key] for o in own):.1f})"


def pages(document: Document) -> list[str]:
    """Return the section on how the file is read from disk."""
    rows = [[r["device"], r["advice"], "yes" if r["checksums"] else "no",
             f"{r['load_ns'] / 1e6:.1f}", f"{r['total_ns'] / 1e6:.1f}"]
            for r in document["results"]]
    return [
        "## Reading the file", "",
        f"The file of {document['model']}, {text.size(document['bytes'])}, dropped from the page "
        "cache, is mapped, loaded and run once: milliseconds, medians of "
        f"{document['rounds']}. Loading compares the checksums of the weights, unless "
        "`check_weights=False`: that reads the file once, in order, from all cores, and advice "
        "only gets in its way, so none is given. Without checksums the pages are read when a "
        "kernel first touches them, and those that no kernel touches never are: of a table of "
        "words only the rows that are looked up. Reading ahead (WILLNEED) makes that first run "
        "faster where all weights are needed, but reads those that are not. To measure again:", "",
        "    python -m edgerun.tools.compare.pages resnet18.edge --device portable,intel --json "
        "docs/footprint/pages.json", "",
        *table(["device", "advice", "checksums", "load", "load and run"], rows, left=3)]
