"""Answers questions about a cluster with the pyzeebe client as it comes from PyPI: one JSON line for each line read.

The client keeps its one channel through everything that happens to the cluster meanwhile.
"""

import asyncio
import json
import sys

from pyzeebe import ZeebeClient, create_insecure_channel


async def answer(client, question):
    if question == "healthcheck":
        # Asks grpc.health.v1.Health for the service gateway_protocol.Gateway.
        return {"serving": (await client.healthcheck()).status == 1}
    if question != "topology":
        raise ValueError(f"{question!r}: ask for topology or healthcheck")
    topology = await client.topology()
    return {
        "clusterSize": topology.cluster_size,
        "partitionsCount": topology.partitions_count,
        "replicationFactor": topology.replication_factor,
        "gatewayVersion": topology.gateway_version,
        "brokers": [
            {
                "nodeId": broker.node_id,
                "host": broker.host,
                "port": broker.port,
                "version": broker.version,
                "partitions": [
                    {
                        "partitionId": partition.partition_id,
                        "role": partition.role.name.lower(),
                        "health": partition.health.name.lower(),
                    }
                    for partition in broker.partitions
                ],
            }
            for broker in topology.brokers
        ],
    }


async def main():
    client = ZeebeClient(create_insecure_channel(grpc_address=sys.argv[1]))
    loop = asyncio.get_running_loop()
    while question := await loop.run_in_executor(None, sys.stdin.readline):
        try:
            told = await answer(client, question.strip())
        except Exception as error:
            told = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(told), flush=True)


asyncio.run(main())
