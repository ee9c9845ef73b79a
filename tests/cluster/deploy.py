"""What a user's script does: bind an application of `apps.py` and `serve.run` it. Copied beside `apps.py` and started
in a process of its own; its one argument is JSON: kind, name, route_prefix, options, arguments.
"""

from __future__ import annotations

import json
import sys

import apps  # type: ignore[import-not-found]  # a copy of apps.py lies beside the copy of this file
import cancel_apps  # type: ignore[import-not-found]  # likewise
import chain_apps  # type: ignore[import-not-found]  # likewise
import scaling_apps  # type: ignore[import-not-found]  # likewise

import serve_rt as serve


def main() -> None:
    wanted = json.loads(sys.argv[1])
    builders = {**chain_apps.BUILDERS, **cancel_apps.BUILDERS, **scaling_apps.BUILDERS}
    if (builder := builders.get(wanted["kind"])) is not None:
        application = builder(wanted["options"], **wanted["arguments"])
    else:
        deployment = apps.KINDS[wanted["kind"].removeprefix("delete_and_")]
        if wanted["options"]:
            deployment = deployment.options(**wanted["options"])
        application = deployment.bind(**wanted["arguments"])
    if wanted["kind"].startswith("delete_and_"):
        serve.delete(wanted["name"], _blocking=False)
    serve.run(application, name=wanted["name"], route_prefix=wanted["route_prefix"])
    print("deployed", flush=True)


if __name__ == "__main__":
    main()
