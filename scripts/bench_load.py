#!/usr/bin/env python3
"""Where the time of a start goes: cold (the file is not in the page cache) and warm, by phases, workers as threads and as processes.

"Cold" drops the file's clean pages with posix_fadvise; what a host below this one keeps of its disk is not dropped with them. Takes
a minute; needs an otherwise idle machine.
"""

import argparse
import json
import os
import sys
import time

import page_cache
from benchmarks import columns, spread
from common import ROOT, fail, target_dir

sys.path.append(str(ROOT / "python"))
os.environ.setdefault("LLAMAPEN_LIBRARY", str(target_dir() / "release" / "libllamapen.so"))

PHASES = ["header_ms", "mapping_ms", "weights_ms", "context_ms", "warm_up_ms"]


def start(path, config):
    """One start: phases by name, of each worker, and the whole, until all are ready."""
    import llamapen

    engine = llamapen.prepare(path, **config)
    began = time.monotonic()
    with llamapen.Supervisor(engine) as supervisor:
        supervisor.wait_ready(600)
        ready = time.monotonic() - began
        while (health := supervisor.health())["state"] != "READY":
            time.sleep(0.001)
    phases = {"ready_ms": ready * 1e3}
    for i, worker in enumerate(health["workers"]):
        started = dict(worker["start_phases"])
        load = started.pop("load") or (health["load_phases"] if i == 0 else {})
        phases.update({f"{name} {i}": ms for name, ms in {**load, **started}.items()})
    return phases


def main():
    parser = argparse.ArgumentParser(description="Measures starts by phases.")
    parser.add_argument("--model", help="default: the small model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    options = parser.parse_args()
    path = options.model
    if path is None:
        import model

        path = str(model.path())

    kinds = [(cold, isolation) for isolation in ("thread", "process") for cold in (True, False)]
    seen = {kind: [] for kind in kinds}
    # In turn: what the machine does meanwhile meets all alike.
    for _ in range(options.rounds):
        for cold, isolation in kinds:
            if cold and page_cache.drop(path) > 0.01:
                fail("the file is mapped by another process, and stays in the page cache")
            seen[cold, isolation].append(start(path, {"streams": 2, "n_ctx": 2048, "isolation": isolation}))
    titles = [f"{'cold' if cold else 'warm'}, {isolation}" for cold, isolation in kinds]
    if options.json:
        print(json.dumps(dict(zip(titles, seen.values())), indent=2))
        return
    workers = max(int(name.split()[1]) for starts in seen.values() for name in starts[0] if " " in name) + 1
    names = [f"{phase} {i}" for i in range(workers) for phase in PHASES] + ["ready_ms"]
    rows = [("ms, median (least-most)", *titles)]
    for name in names:
        rows.append((name.replace("_ms", "").replace("_", " "), *(spread([s.get(name) for s in starts], 1) for starts in seen.values())))
    print(columns(rows))


if __name__ == "__main__":
    main()
