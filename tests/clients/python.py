"""firecracker-python, as it is published, against Mote: create, pause, resume,
snapshot and delete, by its own means. What it also wants of its host, and what has
nothing to do with a VM that is given a kernel and a disk, is left out: a Docker
daemon, a site on the internet that tells it its address, and a firewall.

Run by `run` where the names that it knows (/usr/local/bin/firecracker,
/var/lib/firecracker) are this test's own.

    python.py KERNEL DISK
"""

import json
import os
import sys
from unittest import mock

import requests_unixsocket

import docker
import firecracker.microvm

DATA = "/var/lib/firecracker"


def state(vm):
    """What the VM's own API says."""
    socket = f"{DATA}/{vm._microvm_id}/firecracker.socket".replace("/", "%2F")
    session = requests_unixsocket.Session()
    return session.get(f"http+unix://{socket}/").json()["state"]


def made(kernel, disk, address):
    return firecracker.MicroVM(
        kernel_file=kernel, base_rootfs=disk, vcpu=2, memory="128M", ip_addr=address
    )


def main(kernel, disk):
    vm = made(kernel, disk, "172.16.3.2")
    said = vm.create()
    assert said.endswith("created"), said
    assert state(vm) == "Running"
    vm.pause()
    assert state(vm) == "Paused"
    vm.resume()
    assert state(vm) == "Running"
    log = open(f"{DATA}/{vm._microvm_id}/firecracker.log").read()
    assert "ready" in log, log
    # It pauses the VM for it, and resumes it.
    os.makedirs(f"{DATA}/saved")
    files = {"memory_path": f"{DATA}/saved/memory", "snapshot_path": f"{DATA}/saved/state"}
    vm.snapshot(action="create", **files)
    assert state(vm) == "Running"
    assert os.path.getsize(files["memory_path"]) > 128 << 20
    print(vm.delete())
    assert not os.path.exists(f"{DATA}/{vm._microvm_id}/firecracker.pid")


if __name__ == "__main__":
    network = firecracker.network.NetworkManager
    with (
        mock.patch.object(docker, "from_env"),
        mock.patch.object(firecracker.microvm, "get_public_ip", return_value="192.0.2.1"),
        mock.patch.object(network, "create_masquerade"),
        mock.patch.object(network, "delete_masquerade"),
        mock.patch.object(network, "delete_all_port_forward"),
    ):
        main(*sys.argv[1:])
