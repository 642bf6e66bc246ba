"""Archives and compression: tar, gzip, bzip2, xz, zstd, cpio, with threads and pipes where they have them."""

from __future__ import annotations

from programs.row import Row

_FILES: dict[str, str | bytes] = {
    "tree/a.txt": "text of a\n" * 200,
    "tree/sub/b.bin": bytes(range(256)) * 400,
    "tree/sub/run.sh": "#!/bin/sh\necho ran\n",
    "tree/empty": "",
    "big": bytes((i * i >> 7) & 255 for i in range(1 << 20)),
}

_COMMANDS: dict[str, str] = {
    "tar": "ln -s a.txt tree/l; ln tree/a.txt tree/h; mkfifo tree/p; tar --sort=name --mtime=@0 -cf t.tar tree; sha256sum t.tar; tar -tvf t.tar | awk '{ print $1, $6, $7, $8, $9, $10 }'; mkdir o; tar -xf t.tar -C o; (cd o/tree; ls -lR | awk '{ print $1, $2, $9, $10, $11 }'; sub/run.sh; stat -c %h a.txt); tar -df t.tar; echo $?;"
    " tar -xOf t.tar tree/a.txt | wc; tar -rf t.tar big; tar -tf t.tar | wc -l; tar --delete -f t.tar big; tar -tf t.tar | tail -n 1; tar -xf none.tar; echo $?; head -c 3000 t.tar | tar -tf - 2>&1 | tail -n 1; tar -cf - tree | tar -tf - | sort; tar --exclude='*.bin' -cf e.tar tree; tar -tf e.tar | sort; rm tree/p; tar -cSf s.tar big; tar -tf s.tar; tar -C tree -cf - . | tar -C o -xpf - ; ls o",
    "tar-compressed": "for z in z j J; do tar -c${z}f t$z tree; tar -t${z}f t$z | wc -l; mkdir x$z; tar -xf t$z -C x$z; diff -r tree x$z/tree && echo same; done; tar --zstd -cf tz tree; tar -tf tz | wc -l; tar -I 'gzip -9' -cf tg tree; tar -tf tg | wc -l; rm -r t? x?",
    "gzip": "gzip -n -k big; sha256sum big.gz; gzip -t big.gz; echo $?; gunzip -c big.gz | cmp - big && echo same; zcat big.gz | wc -c; gzip -l big.gz | tail -n 1; gzip -1 -n -c tree/a.txt | wc -c; echo x | gzip -n | gunzip; gzip -d none; echo $?; head -c 100 big.gz | gunzip | wc -c; gzip big; ls; zgrep -c text <(gzip -c tree/a.txt); gunzip -f big.gz; stat -c '%s %Y' big",
    "bzip2": "bzip2 -k big; sha256sum big.bz2; bunzip2 -c big.bz2 | cmp - big && echo same; bzip2 -t big.bz2; echo $?; bzcat big.bz2 | md5sum; bzip2recover none 2>&1 | wc -l; echo x | bzip2 -d; echo $?; rm big.bz2",
    "xz": "xz -k big; sha256sum big.xz; xz -dc big.xz | cmp - big && echo same; xz -t big.xz; echo $?; xz -T2 --block-size=128KiB -c big | xz -dc | md5sum; xz -T0 -dc big.xz | wc -c; xz --robot -l big.xz | tail -n 1; xz -9e -c tree/a.txt | xz -d | wc -l; xz --format=lzma -c big | unlzma | md5sum; head -c 200 big.xz | xz -dc | wc -c; xzcat none; echo $?; rm big.xz",
    "zstd": "zstd -q -k big; sha256sum big.zst; zstd -q -dc big.zst | cmp - big && echo same; zstd -q -t big.zst; echo $?; zstd -q -T2 -c big | zstd -dc | md5sum; zstd -q -19 -c tree/a.txt | unzstd -c | wc; zstd -q --train tree/sub/* -o d 2>/dev/null; echo x | zstd -d; echo $?; zstdcat big.zst | wc -c; zstd -q --rm big; ls; rm big.zst",
    "cpio": "find tree | sort | cpio --quiet -o -H newc >c; cpio --quiet -t <c; mkdir o; cd o; cpio --quiet -id <../c; diff -r tree ../tree && echo same",
    "zip-python": "python3 -m zipfile -c z.zip tree/ && python3 -m zipfile -l z.zip | awk '{ print $1, $NF }'; python3 -m zipfile -e z.zip o; diff -r tree o/tree && echo same; python3 -m tarfile -c t.tar tree; python3 -m tarfile -t t.tar 2>&1 | wc -l; python3 -m gzip tree/a.txt; ls tree",
    "pipes": "cat big | gzip -1 | gzip -d | xz -0 | xz -d | zstd -q -1 | zstd -q -d | bzip2 -1 | bzip2 -d | cmp - big && echo same; for i in 1 2 3; do gzip -c big & done | wc -c | awk '{ print ($1 > 0) }'; wait",
}  # fmt: skip

ROWS: tuple[Row, ...] = tuple(
    Row(
        f"archive-{name}",
        script,
        files=_FILES,
        shell=("/bin/bash", "-c"),
        # Archives hold the times at which folders were filled.
        unlike=("*.gz", "*.tar", "c", "z.zip"),
        needs=("cpio",) if name == "cpio" else (),
    )
    for name, script in _COMMANDS.items()
)
