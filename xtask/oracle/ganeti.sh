#!/bin/bash
# A real Ganeti on this one machine, for `cargo xtask oracle`: Debian 12's package in Ganeti's own virtual-cluster mode, four
# nodes, hypervisors fake and kvm, disk templates diskless, file and sharedfile, and the real ganeti-rapi on
# https://127.0.0.1:5080 inside a network namespace of its own. Needs root. The scenarios of crates/transcript are written
# for this cluster. It writes $ORACLE_DIR and /etc/netns/$ORACLE_NS, and nothing else: inside the namespace the latter lies
# over /etc, and $ORACLE_DIR/srv over /srv. Clusters with other names can be up at the same time.
#
#   ganeti.sh up          install what is missing, make the cluster, start its daemons, wait for the API
#   ganeti.sh exec CMD    run a command inside the namespace
#   ganeti.sh gnt N CMD   run a Ganeti command as node N, as in: gnt 1 gnt-job list
#   ganeti.sh down        stop and remove everything
#   ganeti.sh hold        up, say "ready", and down once standard input ends, however its writer may end
set -u -o pipefail
NS=${ORACLE_NS:-rapid-oracle}
BASE=${ORACLE_DIR:-/var/tmp/rapid-oracle}
NODES=4 NET=10.77.0 DOMAIN=gnt.example BRIDGE=gnt0
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive

name() { echo "node$1.$DOMAIN"; }
ip_of() { echo "$NET.$((10 + $1))"; }
root() { echo "$BASE/vc/$(name "$1")"; }
as() { local i=$1; shift; GANETI_ROOTDIR=$(root "$i") GANETI_HOSTNAME=$(name "$i") "$@"; }
alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }
inside() { ip netns exec "$NS" bash "$0" enter "$@"; }

packages() {
  local missing=() package
  for package in ganeti ganeti-os-noop openssh-server openssh-client iproute2 iputils-arping curl; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
}

# What lies in /etc/netns/$NS is laid over /etc for everything started in the namespace.
namespace() {
  local i
  mkdir -p "/etc/netns/$NS"
  sed 's/^hosts:.*/hosts: files/' /etc/nsswitch.conf >"/etc/netns/$NS/nsswitch.conf"
  {
    echo "127.0.0.1 localhost"
    echo "$NET.1 cluster.$DOMAIN cluster"
    for ((i = 1; i <= NODES; i++)); do echo "$(ip_of $i) $(name $i) node$i"; done
    for ((i = 1; i <= 250; i++)); do printf '%s\n' "10.77.1.$i inst$i.$DOMAIN inst$i" "10.77.2.$i bulk$i.$DOMAIN bulk$i"; done
  } >"/etc/netns/$NS/hosts"
  ip netns list | grep -qw "$NS" || ip netns add "$NS" || return 1
  ip -n "$NS" link set lo up
  ip -n "$NS" link show $BRIDGE >/dev/null 2>&1 || ip -n "$NS" link add $BRIDGE type bridge
  ip -n "$NS" link set $BRIDGE up
  for ((i = 1; i <= NODES; i++)); do ip -n "$NS" addr replace "$(ip_of $i)/32" dev $BRIDGE; done
  ip -n "$NS" route replace $NET.0/24 dev $BRIDGE
  mkdir -p "/etc/netns/$NS/ssh" "$BASE/srv"
  printf 'Host *.%s\n  IdentityFile %s\n' $DOMAIN "$BASE/ssh/id_rsa" >"/etc/netns/$NS/ssh/ssh_config"
}

# Nodes copy files to each other with ssh.
secure_shell() {
  local i key dir=$BASE/ssh
  mkdir -p "$dir" /run/sshd
  chmod 700 "$dir"
  for key in "$dir/id_rsa" /etc/ssh/ssh_host_rsa_key; do
    [ -f "$key" ] || ssh-keygen -q -t rsa -b 2048 -N '' -f "$key"
  done
  cp "$dir/id_rsa.pub" "$dir/authorized_keys"
  {
    for ((i = 1; i <= NODES; i++)); do echo "ListenAddress $(ip_of $i):22"; done
    printf '%s\n' "HostKey /etc/ssh/ssh_host_rsa_key" "PidFile $dir/sshd.pid" "AuthorizedKeysFile $dir/authorized_keys" \
      "PermitRootLogin prohibit-password" "PasswordAuthentication no" "KbdInteractiveAuthentication no" "UsePAM no" \
      "StrictModes no" "MaxStartups 100"
  } >"$dir/sshd_config"
  alive "$dir/sshd.pid" || /usr/sbin/sshd -f "$dir/sshd_config" -E "$dir/sshd.log"
}

# noop comes from Debian; gl-var has variants and parameters, gl-fail refuses to install.
os_definitions() {
  local os script dir
  for os in gl-var gl-fail; do
    dir=/srv/ganeti/os/$os
    mkdir -p $dir
    for script in create import export rename verify; do printf '#!/bin/sh\nexit 0\n' >$dir/$script; done
    echo 20 >$dir/ganeti_api_version
    printf 'default\nminimal\n' >$dir/variants.list
    printf 'root_size Size of root\nmirror Mirror to use\n' >$dir/parameters.list
  done
  printf '#!/bin/sh\necho "gl-fail: refusing to install" >&2\nexit 1\n' >/srv/ganeti/os/gl-fail/create
  printf '#!/bin/sh\necho dummy-export-data\n' >/srv/ganeti/os/gl-var/export
  printf '#!/bin/sh\ncat >/dev/null\n' >/srv/ganeti/os/gl-var/import
  chmod 755 /srv/ganeti/os/gl-*/{create,import,export,rename,verify}
}

node_roots() {
  local i dir bind hash
  mkdir -p "$BASE/vc" "$BASE"/storage/{file,shared}
  chmod 755 "$BASE" "$BASE/vc" "$BASE/storage" "$BASE"/storage/*
  for ((i = 1; i <= NODES; i++)); do
    dir=$(root $i) bind="-b $(ip_of $i)"
    mkdir -p "$dir"/var/lib/ganeti/export "$dir"/etc/{default,ganeti} "$dir"/var/lock "$dir"/var/{lib,log,run}/ganeti
    printf '%s\n' "$BASE/storage/file" "$BASE/storage/shared" >"$dir/etc/ganeti/file-storage-paths"
    printf '%s\n' "NODED_ARGS='--no-mlock $bind'" "RAPI_ARGS='-b 127.0.0.1'" "CONFD_ARGS='$bind'" "MOND_ARGS='$bind'" \
      "WCONFD_ARGS=''" "LUXID_ARGS=''" "KVMD_ARGS=''" \
      "export GANETI_ROOTDIR='$dir'" "export GANETI_HOSTNAME='$(name $i)'" >"$dir/etc/default/ganeti"
    as $i /usr/lib/ganeti/ensure-dirs
  done
  dir=$(root 1)/var/lib/ganeti/rapi
  mkdir -p "$dir"
  hash=$(printf 'hashed:Ganeti Remote API:hashpw' | md5sum | cut -d' ' -f1)
  printf '%s\n' "reader readpw" "reader2 readpw2 read" "writer writepw write" "cleartext {cleartext}clearpw write" \
    "hashed {HA1}$hash write" "both bothpw read,write" >"$dir/users.new"
  chown gnt-rapi:gnt-masterd "$dir/users.new"
  chmod 640 "$dir/users.new"
  mv "$dir/users.new" "$dir/users"
}

make_cluster() {
  local i
  [ -f "$(root 1)/var/lib/ganeti/config.data" ] && return 0
  as 1 gnt-cluster init --no-etc-hosts --no-ssh-init --master-netdev=$BRIDGE --master-netmask=32 \
    --nic-parameters=mode=bridged,link=$BRIDGE --enabled-hypervisors=fake,kvm \
    --enabled-disk-templates=diskless,file,sharedfile \
    --file-storage-dir="$BASE/storage/file" --shared-file-storage-dir="$BASE/storage/shared" \
    -H kvm:kernel_path=,vnc_bind_address=127.0.0.1,serial_console=false \
    --ipolicy-bounds-specs=min:disk-size=0,cpu-count=1,disk-count=0,memory-size=1,nic-count=0,spindle-use=0/max:disk-size=1048576,cpu-count=8,disk-count=16,memory-size=32768,nic-count=8,spindle-use=12 \
    cluster.$DOMAIN || return 1
  for ((i = 2; i <= NODES; i++)); do as 1 gnt-node add --no-ssh-key-check "$(name $i)" </dev/null || return 1; done
}

# Node daemons first: the master's daemons ask the other nodes for their vote before they start.
start_daemons() {
  local i daemon
  for daemon in noded confd wconfd luxid rapi kvmd mond; do
    for ((i = 1; i <= NODES; i++)); do
      case $daemon in wconfd | luxid | rapi) [ $i = 1 ] || continue ;; esac
      alive "$(root $i)/var/run/ganeti/ganeti-$daemon.pid" && continue
      as $i /usr/lib/ganeti/daemon-util start ganeti-$daemon >/dev/null || echo "ganeti-$daemon on node $i did not start" >&2
    done
  done
  ip addr replace $NET.1/32 dev $BRIDGE
}

wait_ready() {
  local tries
  for ((tries = 0; tries < 120; tries++)); do
    curl -skf -m 5 https://127.0.0.1:5080/2/info -o /dev/null && return 0
    sleep 0.5
  done
  echo "the API did not come up" >&2
  return 1
}

# What no pid file knows: jobs at work, instances, what was started through `exec`.
end_the_rest() {
  local tries pids signal=TERM
  for ((tries = 0; tries < 50; tries++)); do
    pids=$(ip netns pids "$NS" 2>/dev/null)
    [ -n "$pids" ] || return 0
    ((tries < 20)) || signal=KILL
    kill -$signal $pids 2>/dev/null
    sleep 0.1
  done
}

case "${1:-}" in
  up) packages && namespace && inside bash "$0" up-inside ;;
  up-inside) secure_shell; os_definitions; node_roots; make_cluster && start_daemons && wait_ready ;;
  enter) shift; mount --bind "$BASE/srv" /srv && exec "$@" ;;
  exec) shift; exec ip netns exec "$NS" bash "$0" enter "$@" ;;
  gnt) i=$2; shift 2; exec bash "$0" exec env GANETI_ROOTDIR="$(root "$i")" GANETI_HOSTNAME="$(name "$i")" "$@" ;;
  hold)
    bash "$0" up </dev/null >&2 && echo ready && cat >/dev/null
    status=$?
    bash "$0" down </dev/null >&2
    exit $status
    ;;
  down-inside) for ((i = NODES; i >= 1; i--)); do [ -d "$(root $i)" ] && as $i /usr/lib/ganeti/daemon-util stop-all; done ;;
  down)
    inside bash "$0" down-inside
    end_the_rest
    ip netns del "$NS" 2>/dev/null
    rm -rf "/etc/netns/$NS" "$BASE"
    ;;
  *) sed -n '2,13p' "$0"; exit 2 ;;
esac
