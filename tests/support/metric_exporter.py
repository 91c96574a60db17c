"""A process that exports the service's own metrics and counts by command: one JSON object per line on stdin.

Run as `python exporter.py PORT PREDICTOR`; PORT 0 takes a free one. The port is the first line on stdout, then one
line answers each command.
"""

import json
import sys

from prometheus_client import start_http_server

from custom_runtime.metrics import ServingMetrics


def main(port: int, predictor: str) -> None:
    server, _ = start_http_server(port, addr="127.0.0.1")
    metrics = ServingMetrics(model="churn", version="7", predictor=predictor, store="memory")
    print(server.server_port, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        for _ in range(order.get("times", 1)):
            metrics.observe_request(order.get("route", "predict"), order.get("code", 200), order.get("ms", 3.0) / 1000)
            metrics.observe_scores(order.get("scores", []))
        print("counted", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
