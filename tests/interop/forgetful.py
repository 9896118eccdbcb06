"""A file system in memory that can forget, as a disk does in a power cut: forgetful.py MOUNTPOINT

When a directory named .power-cut is made in its root, every file goes back to what it held when it
was last fsynced, and every directory to the names that it held when it was.
"""

import errno
import stat
import sys
import time

from mfusepy import FUSE, FuseOSError, Operations


class Node:
    def __init__(self, mode):
        self.mode = mode
        self.time = time.time()
        self.uid = self.gid = 0
        self.data, self.kept_data = bytearray(), b""
        self.names, self.kept_names = {}, {}

    def sync(self):
        self.kept_data, self.kept_names = bytes(self.data), dict(self.names)

    def forget(self):
        self.data, self.names = bytearray(self.kept_data), dict(self.kept_names)
        for node in self.names.values():
            node.forget()


class Forgetful(Operations):
    def __init__(self):
        self.root = Node(stat.S_IFDIR | 0o755)
        self.open_nodes, self.next_handle = {}, 1

    def find(self, path):
        node = self.root
        for name in filter(None, path.split("/")):
            if name not in node.names:
                raise FuseOSError(errno.ENOENT)
            node = node.names[name]
        return node

    def parent(self, path):
        directory, _, name = path.rpartition("/")
        return self.find(directory), name

    def at(self, path, handle):
        return self.open_nodes.get(handle) or self.find(path)

    def add(self, path, mode):
        directory, name = self.parent(path)
        if name in directory.names:
            raise FuseOSError(errno.EEXIST)
        node = directory.names[name] = Node(mode)
        return node

    def handle(self, node):
        self.next_handle += 1
        self.open_nodes[self.next_handle] = node
        return self.next_handle

    def getattr(self, path, fh=None):
        node = self.at(path, fh)
        return {
            "st_mode": node.mode,
            "st_nlink": 2 if stat.S_ISDIR(node.mode) else 1,
            "st_size": len(node.data),
            "st_blocks": -(-len(node.data) // 512),
            "st_uid": node.uid,
            "st_gid": node.gid,
            "st_mtime": node.time,
            "st_atime": node.time,
            "st_ctime": node.time,
        }

    def statfs(self, path):
        blocks = 1 << 20
        return {
            "f_bsize": 4096,
            "f_frsize": 4096,
            "f_blocks": blocks,
            "f_bfree": blocks,
            "f_bavail": blocks,
            "f_namemax": 255,
        }

    def readdir(self, path, fh):
        return [".", "..", *self.find(path).names]

    def mkdir(self, path, mode):
        if path == "/.power-cut":
            self.root.forget()
            return 0
        self.add(path, stat.S_IFDIR | mode)
        return 0

    def mknod(self, path, mode, dev):
        self.add(path, mode)
        return 0

    def create(self, path, mode, fi=None):
        return self.handle(self.add(path, stat.S_IFREG | mode))

    def open(self, path, flags):
        return self.handle(self.find(path))

    def release(self, path, fh):
        self.open_nodes.pop(fh, None)
        return 0

    def read(self, path, size, offset, fh):
        return bytes(self.at(path, fh).data[offset : offset + size])

    def write(self, path, data, offset, fh):
        node = self.at(path, fh)
        if len(node.data) < offset:
            node.data.extend(bytes(offset - len(node.data)))
        node.data[offset : offset + len(data)] = data
        node.time = time.time()
        return len(data)

    def truncate(self, path, length, fh=None):
        node = self.at(path, fh)
        del node.data[length:]
        node.data.extend(bytes(length - len(node.data)))
        return 0

    def fsync(self, path, datasync, fh):
        self.at(path, fh).sync()
        return 0

    def fsyncdir(self, path, datasync, fh):
        self.find(path).sync()
        return 0

    def unlink(self, path):
        directory, name = self.parent(path)
        if directory.names.pop(name, None) is None:
            raise FuseOSError(errno.ENOENT)
        return 0

    def rmdir(self, path):
        if self.find(path).names:
            raise FuseOSError(errno.ENOTEMPTY)
        return self.unlink(path)

    def rename(self, old, new, flags=0):
        node = self.find(old)
        directory, name = self.parent(new)
        self.unlink(old)
        directory.names[name] = node
        return 0

    def chmod(self, path, mode):
        node = self.find(path)
        node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
        return 0

    def chown(self, path, uid, gid):
        node = self.find(path)
        node.uid, node.gid = uid, gid
        return 0

    def utimens(self, path, times=None):
        self.find(path).time = times[1] if times else time.time()
        return 0


FUSE(
    Forgetful(),
    sys.argv[1],
    foreground=True,
    nothreads=True,
    attr_timeout=0,
    entry_timeout=0,
    negative_timeout=0,
)
