"""`python -m tests.load --port 8000 --rate 100 --duration 10`: load, checked and counted, on the command line.

With `--until-stdin-closes` it is the child of `LoadProcess`: "started", then one JSON record per line at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys

import uvloop

from tests.load.checks import SHOOTERS
from tests.load.generator import Aim, Generator
from tests.load.process import encoded


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--shooter", choices=sorted(SHOOTERS), default="echo")
    parser.add_argument("--path", default="/")
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second")
    parser.add_argument("--deadline", type=float, default=10.0, help="seconds")
    parser.add_argument("--duration", type=float, default=10.0, help="seconds")
    parser.add_argument("--name", default="load")
    parser.add_argument("--max-open", type=int, default=2000)
    parser.add_argument("--attempts", type=int, default=1, help="asking again at once when refused or failed")
    parser.add_argument("--until-stdin-closes", action="store_true")
    return parser.parse_args()


async def run(options: argparse.Namespace) -> None:
    aim = Aim(
        host=options.host,
        port=options.port,
        shooter=SHOOTERS[options.shooter](options.path),
        rate_per_s=options.rate,
        deadline_s=options.deadline,
        duration_s=1e9 if options.until_stdin_closes else options.duration,
        name=options.name,
        max_open=options.max_open,
        attempts=options.attempts,
    )
    generator = Generator(aim)
    if not options.until_stdin_closes:
        print((await generator.run()).summary())
        return
    loop = asyncio.get_running_loop()

    def stdin_closed() -> None:
        loop.remove_reader(sys.stdin)
        generator.stop()

    loop.add_reader(sys.stdin, stdin_closed)
    print("started", flush=True)
    report = await generator.run()
    sys.stdout.write("".join(encoded(record) + "\n" for record in report.records))


if __name__ == "__main__":
    gc.disable()  # a collection among a hundred thousand records stops the loop for longer than answers may take
    uvloop.run(run(arguments()))
