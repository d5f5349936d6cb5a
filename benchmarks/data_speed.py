"""How long 50,000 alpaca rows take to become token ids, in xtune, LLaMA-Factory and XTuner, on the same two cores.

    python benchmarks/data_speed.py alpaca.json [--rows 50000] [--rounds 2] [--memory 50000]

The rows of the file are repeated, each a little different. Each contestant reads, checks, renders and encodes them
in a process of its own, in turns: first with empty caches, then again from its cache. Time runs from the call to the
whole data set, after imports and with the tokenizer loaded. The peers get their own environments, made once in
~/.cache/xtune-bench, and as many workers as is fastest. All read the same conversation in ChatML; XTuner starts
with one bos token more and ends a question without input in a new line.

--memory N also measures xtune's highest resident size at N and 10 N rows of JSON Lines.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "data_speed.json"
ENVIRONMENTS = Path.home() / ".cache" / "xtune-bench"
PEERS = {"llamafactory": "llamafactory==0.9.5", "xtuner": "xtuner==0.2.0"}
CORES, MAX_LENGTH = 2, 2048
# What smollm2's template writes where a conversation has no system message.
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


# The contestants. Each runs in its own environment, sets up, and returns a call and what counts its tokens.


def xtune(model: str, data: str, work: Path, _workers: int) -> tuple[Callable, Callable]:
    from xtune.data.dataset import load_dataset
    from xtune.families.tokenizer import load_tokenizer
    from xtune.recipe.schema import Data, Source
    from xtune.templates.template import find_template

    os.environ["XTUNE_HOME"] = str(work)
    section = Data(sources=[Source(path=data)], max_length=MAX_LENGTH)
    tokenizer, template = load_tokenizer(model), find_template("smollm2")
    return lambda: load_dataset(section, tokenizer, template), lambda dataset: int(dataset.lengths.sum())


def llamafactory(model: str, data: str, work: Path, workers: int) -> tuple[Callable, Callable]:
    without_operators()
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from transformers import AutoTokenizer

    (work / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": data}}))
    arguments = {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": model,
        "dataset": "rows",
        "dataset_dir": str(work),
        "template": "chatml",
        "default_system": SYSTEM,
        "cutoff_len": MAX_LENGTH,
        "preprocessing_num_workers": workers,
        "cache_dir": str(work / "cache"),
        "output_dir": str(work / "output"),
        "use_cpu": True,
        "report_to": "none",
    }
    model_args, data_args, training_args, _, _ = get_train_args(arguments)
    tokenizer = AutoTokenizer.from_pretrained(model)
    template = get_template_and_fix_tokenizer(tokenizer, data_args)

    def call():
        module = get_dataset(template, model_args, data_args, training_args, stage="sft", tokenizer=tokenizer)
        return module["train_dataset"]

    return call, lambda dataset: sum(map(len, dataset["input_ids"]))


def xtuner(model: str, data: str, work: Path, workers: int) -> tuple[Callable, Callable]:
    without_operators()
    from datasets import load_dataset
    from transformers import AutoTokenizer
    from xtuner.dataset import process_hf_dataset
    from xtuner.dataset.map_fns import alpaca_map_fn, template_map_fn_factory
    from xtuner.utils import PROMPT_TEMPLATE

    tokenizer = AutoTokenizer.from_pretrained(model)
    template_map_fn = template_map_fn_factory(template=PROMPT_TEMPLATE.qwen_chat)

    def with_system(row):
        mapped = alpaca_map_fn(row)
        mapped["conversation"][0]["system"] = SYSTEM
        return mapped

    def call():
        return process_hf_dataset(
            dataset=load_dataset("json", data_files=data, cache_dir=str(work / "cache")),
            tokenizer=tokenizer,
            max_length=MAX_LENGTH,
            dataset_map_fn=with_system,
            template_map_fn=template_map_fn,
            remove_unused_columns=True,
            pack_to_max_length=False,
            map_num_proc=workers,
        )

    return call, lambda dataset: sum(dataset.length)


CONTESTANTS = {"xtune": xtune, "llamafactory": llamafactory, "xtuner": xtuner}


def without_operators() -> None:
    """The peers import torchvision and torchaudio, whose wheels are built for CUDA: beside a CPU build of torch,
    neither finds its operators. Text needs none."""
    import torch

    if torch.version.cuda is None:
        torch.library.register_fake = lambda *_, **__: lambda function: function
        sys.modules["torchaudio"] = importlib.util.module_from_spec(
            importlib.util.spec_from_loader("torchaudio", loader=None)
        )


def drive(name: str, model: str, data: str, work: str, workers: int) -> None:
    """In a process of its own: make the data set and print what it took."""
    call, count_tokens = CONTESTANTS[name](model, data, Path(work), workers)
    cpu, begun = sum(os.times()[:4]), time.perf_counter()
    dataset = call()
    seconds, cpu = time.perf_counter() - begun, sum(os.times()[:4]) - cpu
    peaks = [
        resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    names = ("torch", "transformers", "tokenizers", *(["datasets", name] if name in PEERS else []))
    report = {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "samples": len(dataset),
        "tokens": count_tokens(dataset),
        "peak_bytes": peaks[0],
        "largest_worker_bytes": peaks[1],
        "versions": {package: version(package) for package in names},
    }
    print("\n" + json.dumps(report))


# What runs them.


def measure(name: str, python: str, model: Path, data: Path, work: Path, workers: int) -> dict:
    work.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "HF_HOME": str(work / "hf"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(
        [python, __file__, "--drive", name, str(model), str(data), str(work), str(workers)],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def cold_and_cached(*arguments) -> dict[str, dict]:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        return {state: measure(*arguments[:4], work, arguments[4]) for state in ("cold", "cached")}


def environment_of(peer: str) -> str:
    """The Python of a peer's own environment, made on first use. Raises CalledProcessError where pip fails."""
    folder = ENVIRONMENTS / peer
    python, wanted = folder / "bin" / "python", [PEERS[peer], f"torch=={version('torch').split('+')[0]}"]
    installed = folder / "installed.json"
    if not installed.exists() or json.loads(installed.read_text()) != wanted:
        print(f"installing {' '.join(wanted)} in {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *wanted], check=True)
        installed.write_text(json.dumps(wanted))
    return str(python)


def write_rows(source: Path, count: int, file: Path) -> Path:
    """`count` rows, no two alike: of each repetition, instruction and output end in its number. A list, or JSON
    Lines where the file's name ends in .jsonl."""
    originals = json.loads(source.read_text(encoding="utf-8"))
    begin, between, end = ("", "\n", "\n") if file.suffix == ".jsonl" else ("[", ", ", "]")
    with file.open("w", encoding="utf-8") as out:
        out.write(begin)
        for number in range(
            count
        ):  # not all in memory: a child's highest resident size starts at its parent's
            again, index = divmod(number, len(originals))
            row = originals[index]
            changes = {name: f"{row[name]} ({again})" for name in ("instruction", "output")} if again else {}
            out.write((between if number else "") + json.dumps({**row, **changes}, ensure_ascii=False))
        out.write(end)
    return file


def speed(model: Path, data: Path, rounds: int) -> dict:
    pythons, workers, notes, tried = {"xtune": sys.executable}, {"xtune": CORES}, [], {}
    for peer in PEERS:
        try:
            pythons[peer] = environment_of(peer)
        except subprocess.CalledProcessError as error:
            notes.append(f"{PEERS[peer]} could not be installed here: {error}")
            continue
        tried[peer] = {
            count: cold_and_cached(peer, pythons[peer], model, data, count)["cold"]["seconds"]
            for count in range(1, CORES + 1)
        }
        workers[peer] = min(tried[peer], key=tried[peer].get)
    runs: dict[str, list[dict[str, dict]]] = {name: [] for name in pythons}
    for _ in range(rounds):
        for name, python in pythons.items():
            runs[name].append(cold_and_cached(name, python, model, data, workers[name]))
    ours = runs["xtune"][0]["cold"]
    for name, done in runs.items():
        for run in (run for both in done for run in both.values()):
            assert run["samples"] == ours["samples"], (
                f"{name}: {run['samples']} samples, not {ours['samples']}"
            )
            assert abs(run["tokens"] / ours["tokens"] - 1) < 0.01, f"{name}: {run['tokens']} tokens"
    contestants = {name: summary(name, done, runs["xtune"], workers[name]) for name, done in runs.items()}
    for peer, seconds in tried.items():
        contestants[peer]["cold_seconds_by_workers"] = seconds
    return {"contestants": contestants, "notes": notes}


def summary(name: str, done: list[dict[str, dict]], ours: list[dict[str, dict]], workers: int) -> dict:
    figures: dict = {"samples": done[0]["cold"]["samples"], "tokens": done[0]["cold"]["tokens"]}
    if name != "xtune":
        figures["workers"] = workers
    for state in ("cold", "cached"):
        figures[state] = {
            key: statistics.median(run[state][key] for run in done) for key in ("seconds", "cpu_seconds")
        } | {key: max(run[state][key] for run in done) for key in ("peak_bytes", "largest_worker_bytes")}
        ratios = [a[state]["seconds"] / b[state]["seconds"] for a, b in zip(ours, done, strict=True)]
        figures[state]["xtune_time_ratio"] = statistics.median(ratios)
    return figures | {"versions": done[0]["cold"]["versions"]}


def memory(source: Path, model: Path, count: int, folder: Path) -> dict[int, int]:
    """Rows to bytes: the highest resident size of one xtune process that encodes them."""
    peaks = {}
    for rows in (count, 10 * count):
        data = write_rows(source, rows, folder / f"{rows}.jsonl")
        run = cold_and_cached("xtune", sys.executable, model, data, CORES)["cold"]
        peaks[rows] = max(run["peak_bytes"], run["largest_worker_bytes"])
        data.unlink()
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", help="a JSON file of alpaca rows")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--memory", type=int, metavar="N", help="also the memory of N and 10 N rows")
    parser.add_argument("--drive", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive:
        *texts, workers = arguments.drive
        drive(*texts, int(workers))
        return
    if not arguments.data:
        parser.error("name a JSON file of alpaca rows")
    from xtune.families.embedded import model_directory

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    source, model = Path(arguments.data), model_directory("smollm2")
    with tempfile.TemporaryDirectory() as folder:
        data = write_rows(source, arguments.rows, Path(folder) / "rows.json")
        results = {
            "machine": platform.processor() or platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "rows": arguments.rows,
            "file_bytes": data.stat().st_size,
            "rounds": arguments.rounds,
            **speed(model, data, arguments.rounds),
        }
        if arguments.memory:
            results["xtune_peak_bytes_by_rows"] = memory(source, model, arguments.memory, Path(folder))
    print(f"{'':14}{'cold':>9}{'cpu':>9}{'cached':>9}{'memory':>9}{'a worker':>10}{'tokens':>12}  xtune / it")
    for name, figures in results["contestants"].items():
        cold, cached = figures["cold"], figures["cached"]
        print(
            f"{name:14}{cold['seconds']:7.2f} s{cold['cpu_seconds']:7.2f} s{cached['seconds']:7.2f} s"
            f"{cold['peak_bytes'] / 1e9:6.2f} GB{cold['largest_worker_bytes'] / 1e9:7.2f} GB{figures['tokens']:>12}"
            f"  {cold['xtune_time_ratio']:.2f} cold, {cached['xtune_time_ratio']:.2f} cached"
        )
    for rows, peak in results.get("xtune_peak_bytes_by_rows", {}).items():
        print(f"xtune, {rows} rows of JSON Lines: {peak / 1e9:.2f} GB")
    print(*results["notes"], sep="\n", end="")
    RESULT.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
