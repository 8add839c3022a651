# shellcheck shell=bash
# What the scripts beside it share: where things are, how parts are started and watched. Sourced; expects $here, sets $dir.
: "${here:?}"
dir=${TEST_CLUSTER_DIR:-$HOME/.cache/test-cluster}
export TEST_CLUSTER_DIR=$dir GOTOOLCHAIN=local GOFLAGS=-mod=mod

# Addresses of the cluster's own: on interfaces that make_network makes, so nothing for them ever leaves this machine.
NODE_IP=10.89.0.1 POD_CIDR=10.90.0.0/16 SERVICE_CIDR=10.91.0.0/16 API_SERVICE_IP=10.91.0.1 DNS_SERVICE_IP=10.91.0.10
API_PORT=${TEST_CLUSTER_PORT:-6443}
patience=${TEST_CLUSTER_PATIENCE:-1}
GO=1.26 # what the modules in kube/ ask for

say() { echo "cluster: $*" >&2; }
unavailable() { say "$*"; exit 69; } # this machine cannot do it; the tests skip
go_is_new_enough() { command -v go >/dev/null && printf '%s\n' "$GO" "$(go env GOVERSION | sed 's/^go//')" | sort -CV; }
built() { # PROGRAM COMMAND...: bin/PROGRAM, made by COMMAND where it is not there; one build at a time on this machine
  [ ! -x "$dir/bin/$1" ] || return 0
  (
    flock 8
    [ -x "$dir/bin/$1" ] || "${@:2}" 8>&-
  ) 8>"$dir/build.lock"
}
nodes() { seq 0 $((${TEST_CLUSTER_NODES:-2} - 1)); }
ctr_() { local node=$1; shift; ctr --address "$dir/node-$node/containerd.sock" --namespace k8s.io "$@"; }
kubectl_() { "$dir/bin/kubectl" --kubeconfig "$dir/kubeconfig" --request-timeout $((5 * patience))s "$@"; }

nodes_are_ready() { # start_kubelet deletes the lease: what the API server says of a node before its kubelet came back is old
  local names
  mapfile -t names < <(nodes | sed 's#^#node-#')
  kubectl_ -n kube-node-lease get lease "${names[@]}" && kubectl_ wait --for=condition=Ready "${names[@]/#/node/}" --timeout=1s
}

running() { # NAME: its process lives, and is ours (process ids are used again)
  local pid
  pid=$(cat "$dir/pid/$1" 2>/dev/null) && [ -n "$pid" ] && grep -qF "$dir" "/proc/$pid/cmdline" 2>/dev/null
}

start() { # NAME COMMAND...: in the background, its output to log/NAME, its process id to pid/NAME
  local name=$1; shift
  running "$name" && return
  setsid "$@" >>"$dir/log/$name" 2>&1 </dev/null &
  echo $! >"$dir/pid/$name"
}

died() { # the parts that were started and run no more
  local file
  for file in "$dir"/pid/*; do
    [ ! -e "$file" ] || running "$(basename "$file")" || basename "$file"
  done
}

wait_for() { # WHAT COMMAND...: until COMMAND succeeds, 2 minutes at most, times TEST_CLUSTER_PATIENCE
  local what=$1 gone='' deadline=$((SECONDS + 120 * patience)); shift
  while [ $SECONDS -lt $deadline ] && [ -z "$gone" ]; do
    "$@" >/dev/null 2>&1 && return
    sleep 0.2
    gone=$(died)
  done
  say "$what did not become ready${gone:+; stopped: $gone}; last lines of each log:"
  find "$dir/log" -maxdepth 1 -type f -exec tail -n 5 {} + >&2
  exit 1
}

one_at_a_time() { # ARGUMENTS OF THE SCRIPT...: what starts or builds parts waits for whoever does so on this machine
  [ -n "${TEST_CLUSTER_LOCKED:-}" ] || TEST_CLUSTER_LOCKED=1 exec flock --close "$dir/lock" "$here/$(basename "$0")" "$@"
}

apt_get() { # ARGUMENTS...: waits for whoever holds a lock of apt or dpkg (an upgrade at the start of a machine), 5 minutes at most
  local deadline=$((SECONDS + ${TEST_CLUSTER_APT_SECONDS:-300}))
  until apt-get -o DPkg::Lock::Timeout=300 "$@" >"$dir/log/apt" 2>&1; do
    grep -q 'Could not get lock' "$dir/log/apt" && [ $SECONDS -lt $deadline ] || return 1
    sleep 1
  done
}

install_packages() { # PROGRAM:PACKAGE...: those Debian packages whose program (or file) is not there
  local missing=() pair
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
  done
  [ ${#missing[@]} -eq 0 ] && return
  command -v apt-get >/dev/null || unavailable "needs ${missing[*]}: install them (no apt-get here)"
  say "installing ${missing[*]}"
  { apt_get update && DEBIAN_FRONTEND=noninteractive apt_get install -y --no-install-recommends "${missing[@]}"; } ||
    unavailable "needs ${missing[*]}, and apt-get could not install them: see $dir/log/apt"
}

certificate() { # NAME COMMON_NAME ORGANISATION [subjectAltName]
  [ -s "$dir/pki/$1.crt" ] && return
  openssl req -new -newkey rsa:2048 -nodes -keyout "$dir/pki/$1.key" -subj "/O=$3/CN=$2" -out "$dir/pki/$1.csr" 2>/dev/null
  openssl x509 -req -in "$dir/pki/$1.csr" -CA "$dir/pki/ca.crt" -CAkey "$dir/pki/ca.key" -CAcreateserial -days 3650 -out "$dir/pki/$1.crt" \
    -extfile <(printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=clientAuth,serverAuth\n%s\n' \
      "${4:+subjectAltName=$4}") 2>/dev/null
}

kubeconfig() { # FILE NAME: the certificate NAME as a kubeconfig
  local b64="base64 -w0"
  cat >"$1" <<EOF
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://127.0.0.1:$API_PORT", certificate-authority-data: $($b64 "$dir/pki/ca.crt")}}]
users: [{name: $2, user: {client-certificate-data: $($b64 "$dir/pki/$2.crt"), client-key-data: $($b64 "$dir/pki/$2.key")}}]
contexts: [{name: test, context: {cluster: test, user: $2, namespace: default}}]
current-context: test
EOF
  chmod 600 "$1"
}

node_cgroups() { # NODE: its folders, one per controller (cgroup v1) or one (v2)
  find /sys/fs/cgroup -maxdepth 2 -type d -name "node-$1"
}

kill_pods() { # NODE: every container of the node and its shim, at once, as a power cut would
  local folder
  for folder in $(node_cgroups "$1"); do
    find "$folder" -name cgroup.procs -exec cat {} +
  done 2>/dev/null | sort -u | xargs -r kill -9 2>/dev/null
  pgrep -f "containerd-shim.* -address $dir/node-$1/containerd.sock" | xargs -r kill -9 2>/dev/null
  return 0
}

stop() { # NAME...: asks first, then insists after 10 s
  local name deadline=$((SECONDS + 10))
  for name in "$@"; do
    ! running "$name" || kill "$(cat "$dir/pid/$name")"
  done
  for name in "$@"; do
    while running "$name" && [ $SECONDS -lt $deadline ]; do sleep 0.1; done
    ! running "$name" || kill -9 "$(cat "$dir/pid/$name")"
    rm -f "$dir/pid/$name"
  done
}
