# A stage of its own for all acts, then the acts in turn: in a session, a network and a mount namespace of its own. What they write is in
# memory and gone with it, and nothing leaves the host. `$1`: the folder of the acts, `$2`: the control group.
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 022
for program in gcc ip openssl perl /usr/bin/python3 script setpriv unshare; do
    command -v $program >/dev/null || { echo "the acts need $program, which is not installed" >&2; exit 1; }
done
ip link set lo up
# An address that might be anybody's, and a private one; both are ours here.
ip address add 11.22.33.44/32 dev lo
ip address add 10.1.2.3/32 dev lo
ip address add 169.254.169.254/32 dev lo

mount --make-rprivate /
mount -t tmpfs none /opt
mkdir /opt/acts
cp "$1"/* /opt/acts
cd /opt
shadow() {
    mkdir -p "/opt/shadow$1"
    cp -a "$1/." "/opt/shadow$1/" 2>/dev/null || true
    mount --bind "/opt/shadow$1" "$1"
}
shadow /etc
mkdir -p /dev/shm
for folder in /tmp /var/tmp /dev/shm /home /root /run /srv /var/log /var/lib/dpkg/info /usr/local/bin /usr/local/sbin; do
    mount -t tmpfs none $folder
done
gcc -o /opt/acts/stand_in /opt/acts/stand_in.c
cp /opt/acts/stand_in /usr/local/sbin/next-act

# Files that acts change, move or remove.
mkdir -p /root/.ssh /root/.kube /home/user/.ssh /home/user/.kube /home/other/.ssh /run/systemd/sessions /run/systemd/seats
for file in /root/.ssh/authorized_keys /home/user/.ssh/authorized_keys /root/.kube/config /home/user/.kube/config /etc/sudoers.d/there \
    /run/systemd/sessions/1 /run/systemd/seats/1 /home/user/.bashrc /home/other/.bashrc /home/other/.ssh/authorized_keys; do
    mkdir -p "${file%/*}"
    echo there >"$file"
done

# Answers every question for an address, and says a command to whoever connects.
echo 'nameserver 127.0.0.1' >/etc/resolv.conf
echo 'hosts: files dns' >/etc/nsswitch.conf
serve=$(perl -e '
    use Socket;
    socket(D, PF_INET, SOCK_DGRAM, 0) && bind(D, sockaddr_in(53, INADDR_ANY)) or die "port 53: $!";
    socket(L, PF_INET, SOCK_STREAM, 0) && bind(L, sockaddr_in(4444, INADDR_ANY)) && listen(L, 9) or die "port 4444: $!";
    if (my $pid = fork) { print $pid; exit }
    close STDOUT;
    alarm 7200;
    $SIG{PIPE} = $SIG{CHLD} = "IGNORE";
    while (1) {
        my $ready = ""; vec($ready, fileno $_, 1) = 1 for *D, *L;
        select($ready, undef, undef, undef);
        if (vec $ready, fileno(L), 1) {
            accept(C, L);
            unless (fork) {
                syswrite C, "id\nexit\n";
                1 while sysread C, my $said, 4096;
                exit;
            }
            close C;
        }
        next unless vec $ready, fileno(D), 1;
        my $from = recv D, my $asked, 512, 0;
        my $end = 12;
        while (my $length = ord substr $asked, $end, 1) { $end += $length + 1 }
        my $is_address = unpack("n", substr $asked, $end + 1, 2) == 1;
        send D, substr($asked, 0, 2) . pack("n5", 0x8180, 1, $is_address, 0, 0) . substr($asked, 12, $end - 7)
            . ($is_address ? "\xc0\x0c" . pack("nnNnC4", 1, 1, 60, 4, 11, 22, 33, 44) : ""), 0, $from;
    }')
# A container is told by its control group.
export BOX=$2/docker-$(printf '%064d' 7).scope
mkdir "$BOX"
sh -c 'echo 0 >"$BOX/cgroup.procs"; exec sleep 7200' &
leave() {
    kill $serve $!
    wait $! || true
    rmdir "$BOX"
}
trap leave EXIT

# First all that must not fire, so that nothing of what must is still under way.
for part in misses fires; do
    for act in /opt/acts/*-$part; do
        rm -rf /usr/local/bin/*
        before=${act%-*}-before
        mkdir "/opt/${act##*/}"
        cd "/opt/${act##*/}"
        if [ $part = misses ] && [ -e "$before" ]; then
            bash "$before" </dev/null
        fi
        next-act "${act##*/}"
        bash "$act" </dev/null || { echo "$act: exit code $?" >&2; exit 1; }
    done
done
next-act end
