"""Ceph's object gateway, with the smallest cluster behind it."""

import shutil
import uuid

from .room import ServerMissing, answers, end, free_port
from .s3 import KEY, SECRET, S3Server

_CONF = """\
[global]
fsid = {cluster}
mon host = {monitor}
mon initial members = a
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd crush chooseleaf type = 0
mon allow pool size one = true
mgr initial modules =
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
pid file = {folder}/$name.pid
mon data = {folder}/mon
ms bind ipv6 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
# A monitor alone has nobody to wait for: the gateway is up in one second instead of 15.
paxos propose interval = 0.05
paxos min wait = 0.02

[osd]
# A new bucket waits so long for the gateway that was killed.
osd client watch timeout = 2
osd data = {folder}/osd
# In memory: the tests kill the gateway, never the cluster behind it.
osd objectstore = memstore
memstore device bytes = 17179869184

[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw data = {folder}/rgw
ms mon client mode = crc secure
rgw run sync thread = false
"""


class RadosGateway(S3Server):
    """Ceph's object gateway, with a cluster of one monitor and one storage daemon behind it."""

    _gateway, _cluster = None, ()

    def prepare(self):
        """Make the cluster and start all of it but the gateway."""
        programs = ["monmaptool", "ceph-mon", "ceph", "ceph-osd", "radosgw", "radosgw-admin"]
        missing = [name for name in programs if not shutil.which(name)]
        if missing:
            raise ServerMissing(
                f"no {', '.join(missing)}: install Debian's radosgw, ceph-mon, ceph-osd and "
                "ceph-common"
            )
        self._cluster = []
        folder, cluster, drive = self.room.folder, uuid.uuid4(), uuid.uuid4()
        monitor = f"[v2:127.0.0.1:{free_port()}/0,v1:127.0.0.1:{free_port()}/0]"
        (folder / "ceph.conf").write_text(
            _CONF.format(folder=folder, cluster=cluster, monitor=monitor, port=self.port)
        )
        run = self.room.run
        for name in ("mon", "osd", "rgw"):
            run("mkdir", folder / name)
        one, map_file = ["--conf", folder / "ceph.conf"], folder / "monmap"
        addresses = monitor.replace("/0", "")
        run("monmaptool", "--create", "--fsid", cluster, "--addv", "a", addresses, map_file)
        run("ceph-mon", *one, "--mkfs", "--id", "a", "--monmap", map_file)
        self._cluster.append(self._daemon("ceph-mon", "--id", "a"))
        number = run("ceph", *one, "osd", "new", drive).split()[-1]
        run("ceph-osd", *one, "--id", number, "--mkfs", "--osd-uuid", drive)
        self._cluster.append(self._daemon("ceph-osd", "--id", number))
        user = ["--uid=test", "--display-name=test", f"--access-key={KEY}", f"--secret={SECRET}"]
        run("radosgw-admin", *one, "user", "create", *user, "--max-buckets=100000")

    def start(self):
        """Start the gateway and wait until it answers."""
        self._gateway = self._daemon("radosgw", "--name", "client.rgw")
        self.room.wait(self._gateway, lambda: answers(self.port))

    def kill(self):
        """Kill the gateway; what it has acknowledged is in the cluster behind it."""
        end(self._gateway)

    def restart(self):
        """Kill the gateway and start it again on the same port."""
        self.kill()
        self.start()

    def stop(self):
        """Stop all of it; its files are of no use any more."""
        for process in (self._gateway, *reversed(self._cluster)):
            end(process)

    def _daemon(self, program, *options):
        conf = ["--conf", self.room.folder / "ceph.conf"]
        return self.room.start(program, *conf, *options, "--foreground")
