# SPDX-License-Identifier: LGPL-2.1-or-later
"""What kgcore needs of a kernel's files: names, open files, sockets."""

from kgcore.sources.vmcore.kernel.layouts.base import EVERYWHERE, Row, Use, Way, members, symbols, types

__all__ = ("ROWS",)

ROWS = (
    Row(
        "names of files",
        Use.NAMES,
        (
            Way(
                EVERYWHERE,
                (
                    *members("struct file", "f_path f_inode f_mapping"),
                    *members("struct path", "mnt dentry"),
                    *members("struct dentry", "d_hash d_parent d_name d_inode d_op"),
                    *members("struct qstr", "len name"),
                    *members("struct hlist_bl_node", "pprev"),
                    *members("struct mount", "mnt mnt_parent mnt_mountpoint"),
                    *members("struct vfsmount", "mnt_root"),
                    *members("struct inode", "i_mode i_nlink i_size i_ino"),
                ),
            ),
        ),
        "mapped files have no names in cores, and gdb finds no program",
        needed=True,
        also=(
            *types("struct file", "struct dentry", "struct mount", "struct inode"),
            *members("struct task_struct", "files fs"),
            *members("struct fs_struct", "root"),
        ),
    ),
    Row(
        "names of files outside any directory",
        Use.NAMES,
        (Way(EVERYWHERE, members("struct dentry_operations", "d_dname")),),
        "memfd, shared memory, pipes and sockets have no names",
        also=(
            *types("struct dentry_operations"),
            *symbols("simple_dname anon_inodefs_dname sockfs_dname pipefs_dname dmabuffs_dname pidfs_dname ns_dname"),
            *members("struct inode", "i_private"),
            *types("struct ns_common", "struct proc_ns_operations"),
            *members("struct ns_common", "ops"),
            *members("struct proc_ns_operations", "name"),
        ),
    ),
    Row(
        "open files",
        Use.FILES,
        (
            Way(
                EVERYWHERE,
                (
                    *members("struct task_struct", "files"),
                    *members("struct files_struct", "fdt"),
                    *members("struct fdtable", "max_fds fd open_fds close_on_exec"),
                    *members("struct file", "f_mode f_flags f_pos private_data"),
                ),
            ),
        ),
        "files shows nothing",
        needed=True,
        also=(
            *types("struct files_struct", "struct fdtable", "struct super_block"),
            *members("struct inode", "i_sb"),
            *members("struct super_block", "s_magic"),
        ),
    ),
    Row(
        "sockets",
        Use.FILES,
        (
            Way(
                EVERYWHERE,
                (
                    *members("struct socket", "type sk"),
                    *members(
                        "struct sock_common",
                        "skc_family skc_num skc_dport skc_rcv_saddr skc_daddr",
                    ),
                    *members("struct unix_sock", "addr"),
                    *members("struct unix_address", "len name"),
                ),
            ),
        ),
        "files does not show the addresses of sockets",
        also=(
            *types("struct socket", "struct sock_common", "struct unix_sock", "struct unix_address"),
            *members("struct sock_common", "skc_v6_rcv_saddr skc_v6_daddr"),
        ),
    ),
)
