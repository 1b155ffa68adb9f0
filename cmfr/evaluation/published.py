"""Results of others: published curves that ship with this package, and files in their formats.

DCVC's `output.json` (and its VTM anchor file), CompressAI's video JSON and CSV come in as records;
CompressAI's JSON goes out.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from typing import Any

from cmfr.evaluation.conditions import CodingConditions
from cmfr.evaluation.records import (
    DATASET_MEAN,
    DCVC_KEYS,
    Average,
    Json,
    Record,
    load_json,
    malformed,
    read_results,
)
from cmfr.utils.errors import UserError
from cmfr.utils.files import atomic_write_text
from cmfr.video.info import parse_frame_rate, parse_raw_name

FOLDER = Path(__file__).parent / "published_rd"
_TABLE = FOLDER / "cmfr_ms_ssim_table.json"


def dataset_name(name: str) -> str:
    """The name that `configs/test` uses: "HEVC_B" -> "hevc_b", "MCL-JCV" -> "mcl_jcv"."""
    return name.lower().replace("-", "_").replace(" ", "_")


# --- published curves


def published_names() -> dict[str, str]:
    """What each published codec is, by its name."""
    return {
        name: codec["title"]
        for file in _files()
        for name, codec in load_json(file)["codecs"].items()
    }


def published(name: str) -> list[Record]:
    """The records of a published codec, with averages only; `metadata` has source, title, note.

    Raises ValueError for a name that is not one of `published_names`.
    """
    for file in _files():
        content = load_json(file)
        if name in content["codecs"]:
            return [
                record
                for dataset, sequences in content["curves"][name].items()
                for sequence, columns in sequences.items()
                for record in _published_curve(content, name, dataset, sequence, columns)
            ]
    raise UserError(f"{name!r} is not published: known are {', '.join(published_names())}")


def published_ms_ssim_table() -> Json:
    """The CMFR authors' corrected table: {"bd_rate_percent": {codec: [by "datasets"]}, ...}."""
    table: Json = load_json(_TABLE)
    return table


def _files() -> list[Path]:
    return [file for file in sorted(FOLDER.glob("*.json")) if file != _TABLE]


def _published_curve(
    content: Json, codec: str, dataset: str, sequence: str, columns: Json
) -> list[Record]:
    stated = content["conditions"] | content.get("dataset_conditions", {}).get(dataset, {})
    frames = columns.get("frames", stated["frames"])
    alone = sequence != DATASET_MEAN
    conditions = CodingConditions(
        **{**stated, "frames": frames if alone else None, "publication": content["source"]}
    )
    kinds = {"all": ("", frames)}  # the end of its columns' names, how many frames
    if "bpp_i" in columns:
        intra = content["i_frames"]
        kinds |= {"I": ("_i", intra), "P": ("_p", frames - intra)}
    about, records = content["codecs"][codec], []
    for index in range(len(columns["bpp"])):
        averages = {
            kind: Average(count, columns[f"bpp{end}"][index], _columns(columns, end, index))
            for kind, (end, count) in kinds.items()
        }
        label = columns["label"][index] if "label" in columns else None
        record = _record(dataset, sequence, codec, index, label, conditions, averages)
        if "size" in content:
            record = replace(record, width=content["size"][0], height=content["size"][1])
            record = replace(record, frame_rate=parse_frame_rate(content["frame_rate"]))
        source = {"source": f"{content['source']}, {about['file']}", "note": content["note"]}
        records.append(replace(record, metadata={"title": about["title"], **source}))
    return records


def _columns(columns: Json, end: str, index: int) -> dict[str, float]:
    """The qualities of one point, of all frames (end ""), I-frames ("_i") or P-frames ("_p")."""
    return {
        metric.removesuffix(end): values[index]
        for metric, values in columns.items()
        if metric.startswith(("psnr", "ms_ssim"))
        and end == (metric[-2:] if metric.endswith(("_i", "_p")) else "")
    }


def _record(
    dataset: str,
    sequence: str,
    codec: str,
    index: int,
    label: float | None,
    conditions: CodingConditions,
    averages: Mapping[str, Average],
) -> Record:
    """With the size and frame rate that the sequence's name tells."""
    parsed = parse_raw_name(sequence)
    rate = parse_frame_rate(parsed.rate) if parsed.rate else None
    width, height = parsed.size or (0, 0)
    return Record(
        dataset, sequence, codec, index, label, width, height, rate, conditions, averages=averages
    )


# --- files of others


def read_any(
    path: str | Path,
    *,
    codec: str | None = None,
    dataset: str | None = None,
    size: tuple[int, int] | None = None,
    frame_rate: Fraction | None = None,
    conditions: Mapping[str, Any] | None = None,
) -> list[Record]:
    """The records of a file of ours, of DCVC or CompressAI (JSON), or of a CSV table.

    codec: names what the file does not (default: the file's name).
    dataset: for CompressAI's files, which give kbit/s of no named set, and for CSV without such a
    column.
    size: (width, height), for CompressAI's files.
    frame_rate: per second, for CompressAI's files.
    conditions: what is known of those that the file does not state, by the names of
    `CodingConditions`; color, number of frames, and that only the first is intra are often told by
    a file.

    Points without a rate index are numbered by rising rate. CSV has a header with `sequence`, `bpp`
    and metrics as in `FrameResult.quality`, and may have dataset, codec, label, rate_index, frames.

    Raises FileNotFoundError, or ValueError with what is wrong or has to be given.
    """
    records = _read(Path(path), codec, dataset, size, frame_rate)
    if not conditions:
        return records
    return [replace(r, conditions=_with(r.conditions, conditions)) for r in records]


def _with(known: CodingConditions, more: Mapping[str, Any]) -> CodingConditions:
    """With what is not known filled in; matrix, range and chroma are of RGB only."""
    missing = {name: value for name, value in more.items() if getattr(known, name) is None}
    if known.color != "rgb":
        of_rgb = ("matrix", "range", "chroma")
        missing = {name: value for name, value in missing.items() if name not in of_rgb}
    return replace(known, **missing)


def _read(
    path: Path,
    codec: str | None,
    dataset: str | None,
    size: tuple[int, int] | None,
    frame_rate: Fraction | None,
) -> list[Record]:
    if path.suffix.lower() == ".csv":
        return _csv(path, codec or path.stem, dataset)
    content = load_json(path)
    with malformed(path, "no results file of cmfr, DCVC or CompressAI"):
        if "results" in content:
            name = codec or str(content.get("name", path.stem))
            return _compressai(content, name, dataset, size, frame_rate)
        points = [
            (dataset_name(ds), sequence.removesuffix(".yuv"), key, point)
            for ds, sequences in content.items()
            for sequence, rates in sequences.items()
            for key, point in rates.items()
        ]
        if not any("cmfr" in point for *_, point in points):
            return _dcvc(points, codec or path.stem)
    records = read_results(path)
    return [replace(record, codec=codec) for record in records] if codec else records


def _dcvc(points: Sequence[tuple[str, str, str, Json]], codec: str) -> list[Record]:
    """Keys are rate indices, from the lowest rate on, or QPs (which the point then repeats)."""
    qps: dict[str, list[int]] = {}
    for dataset, _, _, point in points:
        if "qp" in point:
            qps[dataset] = sorted({*qps.get(dataset, []), int(point["qp"])}, reverse=True)
    records = []
    for dataset, sequence, key, point in points:
        names = DCVC_KEYS["yuv420" if "ave_all_frame_psnr_y" in point else "rgb"]
        intra, inter = int(point["i_frame_num"]), int(point["p_frame_num"])
        counts = {"all": intra + inter, "I": intra, "P": inter}
        if not inter and intra > 1:  # as in the VTM anchor: all kinds are booked as I
            counts = {"all": intra}
        averages = {}
        for kind, count in counts.items():
            start = f"ave_{kind.lower()}_frame_"
            values = {name: point.get(start + k) for k, name in names.items()}
            quality = {name: value for name, value in values.items() if value}  # 0: not computed
            averages[kind] = Average(count, point[f"{start}bpp"], quality)
        known = _stated(averages["all"].quality, intra + inter)
        if intra == 1 and inter:
            known = replace(known, intra_period=-1)
        index = qps[dataset].index(int(point["qp"])) if "qp" in point else int(key)
        label = point.get("qp", index)
        records.append(_record(dataset, sequence, codec, index, label, known, averages))
    return records


def _stated(quality: Mapping[str, float], frames: int) -> CodingConditions:
    """What such a file says of the conditions."""
    rgb = any(name.endswith("_rgb") for name in quality)
    return CodingConditions("rgb" if rgb else "yuv420", frames=frames or None)


def _compressai(
    content: Json,
    codec: str,
    dataset: str | None,
    size: tuple[int, int] | None,
    frame_rate: Fraction | None,
) -> list[Record]:
    """Columns of lists; bitrate is in kbit/s; its PSNR-YUV is 4:1:1, so it gets a name of its own.
    A file of one sequence has scalars and a "source"."""
    columns = {k: v if isinstance(v, list) else [v] for k, v in content["results"].items()}
    if dataset is None:
        raise UserError("the data set is not stated: give it")
    if "bpp" in columns:
        rates = columns["bpp"]
    elif size is None or frame_rate is None:
        raise UserError("it has kbit/s: give size and frame rate, to make bits per pixel of them")
    else:
        per_second = float(size[0] * size[1] * frame_rate)
        rates = [1000 * kbits / per_second for kbits in columns["bitrate"]]
    sequence = str(content.get("source", content["results"].get("source", DATASET_MEAN)))
    metrics = {k: v for k, v in columns.items() if k.startswith(("psnr", "ms-ssim"))}
    labels = columns.get("qp", columns.get("q", [None] * len(rates)))
    records = []
    for index, place in enumerate(sorted(range(len(rates)), key=lambda i: rates[i])):
        quality = {
            "psnr_yuv_411" if k == "psnr-yuv" else k.replace("-", "_"): float(v[place])
            for k, v in metrics.items()
        }
        label = labels[place] if isinstance(labels[place], (int, float)) else None
        known, means = _stated(quality, 0), {"all": Average(1, rates[place], quality)}
        name = dataset_name(dataset)
        record = _record(name, Path(sequence).stem, codec, index, label, known, means)
        width, height = size or (record.width, record.height)
        rate = frame_rate or record.frame_rate
        records.append(replace(record, width=width, height=height, frame_rate=rate))
    return records


def _csv(path: Path, codec: str, dataset: str | None) -> list[Record]:
    if not path.is_file():
        raise FileNotFoundError(f"no results file {path}")
    with (
        malformed(path, "no table of results"),
        path.open(newline="", encoding="utf-8-sig") as file,
    ):
        reader = csv.DictReader(file)
        header = reader.fieldnames or []
        metrics = [name for name in header if name.startswith(("psnr", "ms_ssim"))]
        if missing := [name for name in ("sequence", "bpp") if name not in header]:
            raise UserError(f"it has no column {' and none '.join(missing)}")
        if dataset is None and "dataset" not in header:
            raise UserError("it has no column dataset, so the data set has to be given")
        records: list[Record] = []
        for row in sorted(reader, key=lambda row: float(row["bpp"])):
            place = (dataset_name(row.get("dataset") or dataset or ""), row["sequence"])
            name = row.get("codec") or codec
            before = sum((r.dataset, r.sequence, r.codec) == (*place, name) for r in records)
            quality = {metric: float(row[metric]) for metric in metrics if row[metric]}
            frames = int(row.get("frames") or 0)
            index = int(row.get("rate_index") or before)
            label = float(row["label"]) if row.get("label") else None
            means = {"all": Average(frames or 1, float(row["bpp"]), quality)}
            known = _stated(quality, frames)
            records.append(_record(*place, name, index, label, known, means))
    return records


def export_compressai(path: str | Path, records: Iterable[Record], description: str = "") -> None:
    """One codec on one data set as CompressAI's video JSON: plain means over the sequences.

    Its plot script reads the file. Raises ValueError for records of several codecs or sets,
    without a frame rate, or whose sequences have not all the same rate indices and metrics;
    OSError.
    """
    path, rates = Path(path), _by_rate(records)
    columns: dict[str, list[Any]] = {"q": [], "bitrate": []}
    for index, found in sorted(rates.items()):
        columns["q"].append(found[0].label if found[0].label is not None else index)
        kbits = [r.bpp * r.width * r.height * float(r.frame_rate or 0) / 1000 for r in found]
        if not all(kbits):
            raise UserError(f"{path}: bitrates need the frame rate and size of every sequence")
        columns["bitrate"].append(fmean(kbits))
        means = [r.average().quality for r in found]
        for name in (n for n in means[0] if all(n in m for m in means) and n != "psnr_yuv"):
            columns.setdefault(name.replace("_", "-"), []).append(fmean(m[name] for m in means))
    if {"psnr-y", "psnr-u", "psnr-v"} <= columns.keys():
        planes = zip(columns["psnr-y"], columns["psnr-u"], columns["psnr-v"], strict=True)
        columns["psnr-yuv"] = [(4 * y + u + v) / 6 for y, u, v in planes]
    if len({len(column) for column in columns.values()}) != 1:
        raise UserError(f"{path}: not all rates have the same metrics")
    codec = next(iter(rates.values()))[0].codec
    atomic_write_text(
        path,
        json.dumps({"name": codec, "description": description, "results": columns}, indent=1)
        + "\n",
    )


def _by_rate(records: Iterable[Record]) -> dict[int, list[Record]]:
    rates: dict[int, list[Record]] = {}
    for record in records:
        rates.setdefault(record.rate_index, []).append(record)
    everything = [record for found in rates.values() for record in found]
    if len({(r.codec, r.dataset) for r in everything}) != 1:
        raise UserError("a CompressAI file holds one codec on one data set")
    names = sorted({r.sequence for r in everything})
    if any(sorted(r.sequence for r in found) != names for found in rates.values()):
        raise UserError("the sequences do not all have the same rate indices")
    return rates
