# shellcheck shell=bash
# The parts of the cluster and how each is configured. Sourced by up, after lib.sh.
gates=(${TEST_CLUSTER_FEATURES:+--feature-gates "$TEST_CLUSTER_FEATURES"})

build_binaries() { # one binary is all of Kubernetes, etcd and CoreDNS, under a name made of its sources and Go's version
  local binary part
  binary=kube-$( (go version; cat "$here"/kube/*) | sha256sum | cut -c1-16)
  built "$binary" build_kubernetes "$binary"
  for part in etcd kubectl kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy coredns; do ln -sf "$binary" "$dir/bin/$part"; done
  built pause gcc -static -O2 -o "$dir/bin/pause" "$here/etc/pause.c"
}

build_kubernetes() { # BINARY
  local version
  cp "$here"/kube/* "$dir/src/"
  version=$(awk '$1 == "k8s.io/kubernetes" {print $2}' "$dir/src/go.mod")
  (cd "$dir/src" && timeout 60 go mod download "k8s.io/kubernetes@$version") >"$dir/log/build" 2>&1 ||
    unavailable "needs a Go module proxy for its first build and could not reach one: see $dir/log/build"
  say "building Kubernetes $version (4 to 8 minutes on two cores, once)"
  (cd "$dir/src" && go build -o "$dir/src/kube" -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$version \
    -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$(echo "$version" | cut -d. -f2)" .) >>"$dir/log/build" 2>&1 ||
    { tail -n 20 "$dir/log/build" >&2; exit 1; }
  mv "$dir/src/kube" "$dir/bin/$1"
  find "$dir/bin" -name 'kube-????????????????' -printf '%T@ %p\n' | sort -rn | tail -n +4 | cut -d' ' -f2 | xargs -r rm # those of other branches stay for a while
}

make_pki() {
  [ -s "$dir/pki/sa.key" ] || openssl genrsa -out "$dir/pki/sa.key" 2048 2>/dev/null
  [ -s "$dir/pki/ca.crt" ] || openssl req -x509 -newkey rsa:2048 -nodes -keyout "$dir/pki/ca.key" -out "$dir/pki/ca.crt" -days 3650 -subj /CN=test-cluster-ca 2>/dev/null
  certificate apiserver kube-apiserver kubernetes "IP:127.0.0.1,IP:$NODE_IP,IP:$API_SERVICE_IP,DNS:localhost,DNS:kubernetes,\
DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
  certificate admin admin system:masters
  certificate front-proxy front-proxy system
  certificate controller-manager system:kube-controller-manager system
  certificate scheduler system:kube-scheduler system
  certificate proxy system:kube-proxy system
  certificate coredns system:serviceaccount:kube-system:coredns system:serviceaccounts
  local who
  for who in controller-manager scheduler proxy coredns; do kubeconfig "$dir/pki/$who.conf" "$who"; done
  kubeconfig "$dir/kubeconfig" admin
}

make_network() { # node addresses, and a sink for service addresses that no rule has caught yet
  if ! ip link show kube0 >/dev/null 2>&1; then
    ip link add kube0 type bridge
    ip link set kube0 up
    ip addr add "$NODE_IP/32" dev kube0
    ip route add "$SERVICE_CIDR" dev kube0 src "$NODE_IP"
  fi
  sysctl -qw net.ipv4.ip_forward=1
  local rule=(FORWARD -s "$POD_CIDR" '!' -d 10.88.0.0/14 -j REJECT) # what a pod sends stays on this machine, instance metadata look-ups included
  iptables -C "${rule[@]}" 2>/dev/null || iptables -I "${rule[@]}"
}

start_etcd() {
  local client=http://127.0.0.1:2379 peer=http://127.0.0.1:2380
  start etcd "$dir/bin/etcd" --name node-0 --data-dir "$dir/etcd" --unsafe-no-fsync --listen-client-urls "$client" --advertise-client-urls "$client" \
    --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "node-0=$peer"
}

start_apiserver() {
  local pki=$dir/pki beta=(${TEST_CLUSTER_FEATURES:+--runtime-config=api/beta=true}) # most gates want a beta API
  start kube-apiserver "$dir/bin/kube-apiserver" "${gates[@]}" "${beta[@]}" \
    --etcd-servers http://127.0.0.1:2379 --secure-port "$API_PORT" --bind-address 0.0.0.0 --advertise-address "$NODE_IP" \
    --service-cluster-ip-range "$SERVICE_CIDR" --allow-privileged --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
    --client-ca-file "$pki/ca.crt" --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" \
    --kubelet-client-certificate "$pki/admin.crt" --kubelet-client-key "$pki/admin.key" --kubelet-preferred-address-types InternalIP \
    --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$pki/sa.key" --service-account-signing-key-file "$pki/sa.key" \
    --proxy-client-cert-file "$pki/front-proxy.crt" --proxy-client-key-file "$pki/front-proxy.key" \
    --requestheader-client-ca-file "$pki/ca.crt" --requestheader-allowed-names front-proxy --requestheader-extra-headers-prefix X-Remote-Extra- \
    --requestheader-group-headers X-Remote-Group --requestheader-username-headers X-Remote-User \
    --audit-policy-file "$here/etc/audit-policy.yaml" --audit-log-path "$dir/log/audit.jsonl" --audit-log-maxsize 256 --audit-log-maxbackup 3
}

start_controllers() {
  start kube-controller-manager "$dir/bin/kube-controller-manager" "${gates[@]}" --kubeconfig "$dir/pki/controller-manager.conf" \
    --use-service-account-credentials --leader-elect=false --service-account-private-key-file "$dir/pki/sa.key" --root-ca-file "$dir/pki/ca.crt" \
    --cluster-signing-cert-file "$dir/pki/ca.crt" --cluster-signing-key-file "$dir/pki/ca.key" \
    --node-monitor-period 2s --node-monitor-grace-period 20s --terminated-pod-gc-threshold "${TEST_CLUSTER_FINISHED_PODS:-200}"
  start kube-scheduler "$dir/bin/kube-scheduler" "${gates[@]}" --kubeconfig "$dir/pki/scheduler.conf" --leader-elect=false
}

make_cgroups() { # NODE_NAME
  local controller
  if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir -p "/sys/fs/cgroup/$1"
    return
  fi
  for controller in /sys/fs/cgroup/*/; do mkdir -p "$controller/$1"; done
  if [ -d /sys/fs/cgroup/cpuset ]; then
    cat /sys/fs/cgroup/cpuset/cpuset.cpus >"/sys/fs/cgroup/cpuset/$1/cpuset.cpus"
    cat /sys/fs/cgroup/cpuset/cpuset.mems >"/sys/fs/cgroup/cpuset/$1/cpuset.mems"
  fi
}

start_containerd() { # NUMBER: its files in node-NUMBER/, its pods on a bridge of their own
  local node=$1 name=node-$1 address=10.89.0.$(($1 + 1))
  mkdir -p "$dir/$name"/{cni,registries} "$dir/log/$name-pods"
  ip addr add "$address/32" dev kube0 2>/dev/null || true
  make_cgroups "$name"
  certificate "$name" "system:node:$name" system:nodes "IP:$address,DNS:$name"
  kubeconfig "$dir/pki/$name.conf" "$name"
  cni_config "$name" "$node" >"$dir/$name/cni/10-bridge.conflist"
  containerd_config "$name" >"$dir/$name/containerd.toml"
  start "$name-containerd" containerd --config "$dir/$name/containerd.toml"
}

start_kubelet() { # NUMBER
  local node=$1 name=node-$1
  ! running "$name-kubelet" || return 0
  kubectl_ -n kube-node-lease delete lease "$name" --ignore-not-found >/dev/null
  wait_for "containerd of $name" ctr_ "$node" images list -q
  "$here/image" local/pause:1 --once --node "$node" --add "$dir/bin/pause=/pause" --entrypoint /pause >/dev/null
  kubelet_config "$name" "$node" >"$dir/$name/kubelet.yaml"
  start "$name-kubelet" "$dir/bin/kubelet" "${gates[@]}" --config "$dir/$name/kubelet.yaml" --kubeconfig "$dir/pki/$name.conf" \
    --hostname-override "$name" --node-ip "10.89.0.$((node + 1))" --root-dir "$dir/$name/kubelet"
}

cni_config() { # NODE_NAME NODE_NUMBER
  cat <<EOF
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "pods$2", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$dir/$1/ipam", "ranges": [[{"subnet": "10.90.$2.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
EOF
}

containerd_config() { # NODE_NAME
  local folder=$dir/$1
  cat <<EOF
version = 2
root = "$folder/containerd"
state = "$folder/run"
[grpc]
  address = "$folder/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "local/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "$folder/registries"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$folder/cni"
EOF
}

kubelet_config() { # NODE_NAME NODE_NUMBER
  echo "nameserver $DNS_SERVICE_IP" >"$dir/resolv.conf"
  cat <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {x509: {clientCAFile: $dir/pki/ca.crt}, anonymous: {enabled: false}, webhook: {enabled: true}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /$1
failCgroupV1: false
clusterDNS: [$DNS_SERVICE_IP]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix://$dir/$1/containerd.sock
evictionHard: {memory.available: 200Mi, nodefs.available: 1Gi, imagefs.available: 1Gi}
failSwapOn: false
imageGCHighThresholdPercent: 100
makeIPTablesUtilChains: false
maxPods: 200
oomScoreAdj: 0
podLogsDir: $dir/log/$1-pods
port: $((10250 + 10 * $2))
healthzPort: $((10248 + 10 * $2))
resolvConf: $dir/resolv.conf
tlsCertFile: $dir/pki/$1.crt
tlsPrivateKeyFile: $dir/pki/$1.key
EOF
}

proxy_config() {
  cat <<EOF
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $dir/pki/proxy.conf}
clusterCIDR: $POD_CIDR
mode: iptables
iptables: {localhostNodePorts: false} # it would open the loopback to the network
oomScoreAdj: 0
conntrack: {maxPerCore: 0, min: 0}
EOF
}

coredns_config() {
  cat <<EOF
.:53 {
  bind $NODE_IP
  errors
  kubernetes cluster.local in-addr.arpa ip6.arpa {
    kubeconfig $dir/pki/coredns.conf test
    pods insecure
    ttl 1
  }
  template IN ANY . {
    rcode NXDOMAIN
  }
}
EOF
}

start_proxy_and_dns() {
  proxy_config >"$dir/proxy.yaml"
  coredns_config >"$dir/Corefile"
  start kube-proxy "$dir/bin/kube-proxy" --config "$dir/proxy.yaml" --hostname-override node-0
  start coredns "$dir/bin/coredns" -conf "$dir/Corefile"
  kubectl_ apply -f "$here/etc/dns.yaml" >/dev/null
}
