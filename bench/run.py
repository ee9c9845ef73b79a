"""`make bench`: measure, print tables of ratios, and say which aims were met.

make bench BENCH_ARGS="--quick --only http"
BENCH_RAY_PYTHON=… BENCH_MOSEC_PYTHON=… BENCH_LITSERVE_PYTHON=… make bench
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

PARTS = ("http", "shapes", "start", "second", "scale", "control", "embed")


def http(console: Console, quick: bool) -> None:
    from bench import http_bench

    all_series = http_bench.run(seconds=1.5 if quick else 4.0, rounds=2 if quick else 3)
    table = Table(title="no-op HTTP: echo of a nonce by a replica (median of the turns)")
    for column in ("connections", "server", "requests/s", "p50 ms", "p99 ms", "serve_rt is"):
        table.add_column(column, justify="right")
    ours = {series.connections: series for series in all_series if series.name == "serve_rt"}
    for series in all_series:
        ratio = ours[series.connections].per_second / series.per_second
        shown = "" if series.name == "serve_rt" else f"{ratio:.2f} x"
        table.add_row(
            str(series.connections), series.name, f"{series.per_second:,.0f}", f"{series.p50_ms:.3f}",
            f"{series.p99_ms:.3f}", shown,
        )  # fmt: skip
    console.print(table)


def shapes(console: Console, quick: bool) -> None:
    from bench import shapes_bench

    results = shapes_bench.run(seconds=1.5 if quick else 4.0, rounds=2 if quick else 3)
    ours = {result.title: result for result in results if result.server == "serve_rt"}
    table = Table(title="other shapes (median of the turns; a ratio above 1 is ours the better)")
    for column in ("what", "server", "measured", "serve_rt is"):
        table.add_column(column, justify="right")
    for result in results:
        rate = result.unit == "/s"
        measured = f"{result.median:,.0f} /s" if rate else f"{result.median:.1f} ms"
        mine = ours[result.title].median
        ratio = mine / result.median if rate else result.median / mine
        table.add_row(result.title, result.server, measured, "" if result.server == "serve_rt" else f"{ratio:.2f} x")
    console.print(table)


def start(console: Console, quick: bool) -> None:
    from bench import start_bench

    runs = [start_bench.hello() for _ in range(2 if quick else 4)]
    later = runs[1:]
    table = Table(title="hello, from nothing")
    for column in ("what", "measured", "aim"):
        table.add_column(column)
    first_s = statistics.median(run.first_answer_s for run in later)
    table.add_row("first start to first answer", f"{runs[0].first_answer_s:.2f} s", "")
    table.add_row("later starts (median)", f"{first_s:.2f} s", "≤ 1 s")
    mib = statistics.median(run.pss_mib for run in later)
    table.add_row(f"idle memory (PSS of {later[0].processes} processes)", f"{mib:.0f} MiB", "≤ 250 MiB")
    console.print(table)


def second(console: Console, quick: bool) -> None:
    from bench import start_bench

    rounds = 1 if quick else 3
    table = Table(title="second replica of embed: from the write of its assignment to its first answer")
    for column in ("launcher", "measured", "aim"):
        table.add_column(column)
    learned = statistics.median(start_bench.second_embed_replica() for _ in range(rounds))
    plain = statistics.median(start_bench.second_embed_replica("learn") for _ in range(rounds))
    table.add_row("learned preload", f"{learned:.2f} s", "≤ 0.3 s")
    table.add_row("without learning", f"{plain:.2f} s", "> 1 s")
    console.print(table)


def scale(console: Console, quick: bool) -> None:
    from bench import scale_bench

    runs = [scale_bench.scale() for _ in range(1 if quick else 3)]
    table = Table(title=f"1 to {scale_bench.REPLICAS} replicas (num_cpus 0.05) of an app that imports torch")
    for column in ("from the first assignment's write to", "measured", "aim"):
        table.add_column(column)
    table.add_row("half of them ready", f"{statistics.median(run.half_s for run in runs):.2f} s", "")
    table.add_row("all ready", f"{statistics.median(run.all_s for run in runs):.2f} s", "≤ 5 s")
    console.print(table)


def control(console: Console, quick: bool) -> None:
    from bench import control_bench

    measured = control_bench.costs(rounds=10 if quick else 40)
    table = Table(title="one pass of the leader, ms of CPU (slowest of the rounds)")
    for column in ("replicas", "everything", "at rest", "one report", "one more replica", "status"):
        table.add_column(column, justify="right")
    for cost in measured:
        shown = (cost.everything, cost.at_rest, cost.one_report, cost.one_more, cost.status)
        table.add_row(f"{cost.replicas:,}", *(f"{ms:.1f}" for ms in shown))
    table.add_row("aim at 10,000", "< 1000", "< 50", "< 50", "< 50", "")
    console.print(table)
    taken = control_bench.takeover()
    console.print(
        f"a new leader at 10,000 replicas: {taken.records:,} records from etcd in {taken.load_s:.2f} s, first pass "
        f"{taken.decide_s:.2f} s, and at most 1.5 s for the agents' reports (aim: 5 s in all)"
    )
    console.print(f"plot: {control_bench.write_plot(measured, Path('build/bench'))}")


def embed(console: Console, quick: bool) -> None:
    from bench import contenders, http_bench

    seconds = 3.0 if quick else 6.0
    rates: dict[str, list[float]] = {}
    for _ in range(1 if quick else 2):
        for name in ("one_at_a_time", "batched"):
            with contenders.serve_rt(f"bench.apps:{name}") as up:
                after = ', "text": "the quick brown fox jumps over the lazy dog"}'
                http_bench.ask(up, 8, 1.0, body_after=after)
                measured = http_bench.ask(up, 32, seconds, body_after=after)
                rates.setdefault(name, []).append(measured.per_second)
    table = Table(title="embed at 32 connections")
    for column in ("how", "requests/s", "ratio"):
        table.add_column(column, justify="right")
    base = statistics.median(rates["one_at_a_time"])
    for name, values in rates.items():
        rate = statistics.median(values)
        table.add_row(name.replace("_", " "), f"{rate:,.0f}", f"{rate / base:.2f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter turns, fewer rounds")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"--only {','.join(sorted(unknown))}: known are {', '.join(PARTS)}")
    measures: dict[str, Callable[[Console, bool], None]] = {
        "http": http,
        "shapes": shapes,
        "start": start,
        "second": second,
        "scale": scale,
        "control": control,
        "embed": embed,
    }
    console = Console(width=110)
    for part in wanted:
        measures[part](console, options.quick)


if __name__ == "__main__":
    main()
