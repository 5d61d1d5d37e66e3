# Completes the context of fixture.rs with what names, links, modes and archives can be.
cd "$(dirname "$0")/context"

mkdir -p names 'names/with space' special sticky closed links/dir links/other tree/one/two/three tree/one/skip parents/a/b parents/c wild/x1 wild/x2 wild/.dot clash/data clash/etc/keep clash/file
for name in 'sp ace' '[b]' 'st*r' 'que?ry' 'back\slash' "quo'te" 'dou"ble' 'ünï' '-dash' '#hash' 'per%cent' 'dol$lar' 'a,b' 'semi;colon'; do
    printf '%s' "$name" > "names/$name"
done
echo inside > 'names/with space/f'
echo s > special/setuid; chmod 4755 special/setuid
echo g > special/setgid; chmod 2755 special/setgid
echo n > special/none; chmod 000 special/none
echo w > special/writable; chmod 666 special/writable
echo c > special/capable; chmod 755 special/capable
mkdir special/shared special/group; chmod 1777 special/shared; chmod 2775 special/group
echo t > sticky/t; chmod 1777 sticky
echo p > closed/p; chmod 700 closed
echo owned > owned.txt; chown 123:456 owned.txt

echo target > links/target
echo d > links/dir/d
echo o > links/other/o
ln -s target links/to-file
ln -s dir links/to-dir
ln -s to-dir links/to-to-dir
ln -s /links/dir links/absolute
ln -s ../../../../../links/target links/climbing
ln -s nowhere links/dangling
ln -s loop-b links/loop-a
ln -s loop-a links/loop-b
echo h > links/hard-1
ln links/hard-1 links/hard-2
ln links/hard-1 links/other/hard-3

for path in tree/root.txt tree/one/1.txt tree/one/1.md tree/one/two/2.txt tree/one/two/2.md tree/one/two/three/3.txt tree/one/skip/s.txt tree/README; do
    echo "$path" > "$path"
done
echo pa > parents/a/b/pa; echo pc > parents/c/pc; chmod 750 parents/a; chmod 711 parents/a/b
echo 1 > wild/x1/f; echo 2 > wild/x2/g; echo d > wild/.dot/h; echo w > wild/xfile

# What collides with paths of the base.
echo clash > clash/data/one; echo x > clash/etc/keep/x; echo f > clash/file/f
mkdir -p replace/data; echo newer > replace/data/one; mkdir -p replace/data/deep; chmod 700 replace/data/deep
mkdir -p onto-link/var/run onto-link/lib2; echo r > onto-link/var/run/r; echo f > onto-link/lib2/run
mkdir pipes; mkfifo pipes/fifo; echo r > pipes/regular

mkdir -p packed-special/dir; echo s > packed-special/setuid; chmod 4755 packed-special/setuid
echo c > packed-special/capable; chmod 1777 packed-special/dir; echo i > packed-special/dir/inner
ln packed-special/dir/inner packed-special/hard; ln -s dir packed-special/link
chown -h 21:22 packed-special/link packed-special/setuid
mkdir -p archives overlay-archive/data overlay-archive/etc/keep overlay-archive/var/run
echo from-archive > overlay-archive/data/one; echo k > overlay-archive/etc/keep/k
echo through > overlay-archive/var/run/through
mkdir wh; echo w > wh/.wh.gone
for directory in packed-special overlay-archive wh; do
    find "$directory" -exec touch -h -d @1100000000 {} +
done
pack() { tar --numeric-owner "$@"; }
pack -cf archives/special.tar -C packed-special setuid dir hard link
pack -cf archives/dot.tar -C packed-special .
pack -cf archives/over.tar -C overlay-archive data etc var
pack -cf archives/files.tar -C overlay-archive data/one
pack --format=pax --transform 's,^,/absolute/,' -P -cf archives/absolute.tar -C overlay-archive data/one
pack -cf archives/whiteout.tar -C wh .wh.gone
pack -cJf archives/packed.tar.xz -C tarred in
pack -cjf archives/packed.tar.bz2 -C tarred in
pack --zstd -cf archives/packed.tar.zst -C tarred in
gzip -c a.txt > archives/a.txt.gz
echo 'no archive' > archives/false.tar
: > archives/empty.tar
pack -czf archives/misnamed -C tarred in
rm -r overlay-archive wh

find . -exec touch -h -d @1000000000 {} +
touch -d @1234567890.25 b.txt
touch -d @1 c.md
mkdir ../fraction; echo half > ../fraction/half.txt; touch -d @1234567890.75 ../fraction/half.txt
