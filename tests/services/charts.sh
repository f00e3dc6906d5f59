#!/bin/sh
# charts.sh   what the checks of deploy/ need; prints the directory: bin/{helm,kubeconform,promtool}, venv/bin/python3, schemas/
# Go modules, by the Go proxy: helm, kubeconform; Kubernetes' own OpenAPI and the Prometheus operator's CRDs, from which
# schemas.py makes JSON schemas; the schema of compose files. promtool is Debian's, unpacked. PyYAML and jsonschema are PyPI's.
# All in $ROWSTREAM_SERVICES/charts, kept. A first run takes some minutes, most of them for helm.
# Exit code 69: something can't be had here; standard error names it.
set -eu
helm=v3.22.0 kubeconform=v0.8.0
kubernetes=v1.36.3 operator=v0.85.0 compose=v2.16.2
pyyaml=6.0.3 jsonschema=4.25.1
here=$(cd "$(dirname "$0")" && pwd)
base=${ROWSTREAM_SERVICES:-/var/tmp/rowstream-services-$(id -u)}/charts bin=$base/bin
cant() { echo "charts.sh: can't have $1" >&2; exit 69; }
mkdir -p "$bin"; exec 9>"$base/.lock"; flock 9 # one at a time

# A private apt, so that nothing is installed and no service starts. debian PACKAGE.. : unpacked under $base/debian.
debian() {
  st=$base/.apt; rm -rf "$st"; mkdir -p "$st/lists/partial" "$st/cache/archives/partial" "$base/debian"; : >"$st/status"
  mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)}
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$st/sources"
  cat >"$st/conf" <<X
Dir::Etc::main "/dev/null"; Dir::Etc::parts "/dev/null"; Dir::Etc::preferences "/dev/null"; Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::sourcelist "$st/sources"; Dir::Etc::sourceparts "/dev/null"; Dir::State "$st"; Dir::State::status "$st/status";
Dir::State::Lists "$st/lists"; Dir::Cache "$st/cache"; Acquire::Languages "none"; Acquire::Retries "3"; Debug::NoLocking "true";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false"; Acquire::Check-Valid-Until "false"; APT::Sandbox::User "";
X
  export APT_CONFIG="$st/conf"
  apt-get -qq update && (cd "$st" && apt-get -qq download "$@") || return 1
  for deb in "$st"/*.deb; do dpkg-deb -x "$deb" "$base/debian"; done
  unset APT_CONFIG; rm -rf "$st"
}

# The Go on this machine, or Debian's; either fetches the toolchain that a module asks for by itself.
go() {
  if [ -z "${gocmd:-}" ]; then
    for gocmd in "$(command -v go || true)" /usr/local/go/bin/go "$base/debian/usr/lib/go-1.24/bin/go" ""; do
      case $([ -x "$gocmd" ] && "$gocmd" env GOVERSION 2>/dev/null) in go1.2[1-9]* | go1.[3-9]?*) break ;; esac
    done
    if [ -z "$gocmd" ]; then
      suite=trixie debian golang-1.24-go golang-1.24-src || cant "Go: none here, and Debian's golang-1.24-go can't be fetched"
      gocmd=$base/debian/usr/lib/go-1.24/bin/go
      "$gocmd" version >/dev/null 2>&1 || cant "Go: Debian's golang-1.24-go does not run here"
    fi
  fi
  (cd "$base" && GOFLAGS=-modcacherw GOTOOLCHAIN=auto GOWORK=off "$gocmd" "$@")
}
module() { go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'; }

[ -e "$base/.helm-$helm" ] || {
  GOBIN=$bin go install "helm.sh/helm/v3/cmd/helm@$helm" >&2 || cant "helm $helm (go install)"; : >"$base/.helm-$helm"; }
[ -e "$base/.kubeconform-$kubeconform" ] || {
  GOBIN=$bin go install "github.com/yannh/kubeconform/cmd/kubeconform@$kubeconform" >&2 || cant "kubeconform $kubeconform (go install)"
  : >"$base/.kubeconform-$kubeconform"; }
[ -x "$bin/promtool" ] || {
  suite=bookworm debian prometheus || cant "promtool (Debian's prometheus package)"
  cp "$base/debian/usr/bin/promtool" "$bin/promtool"; rm -rf "$base/debian/usr/bin" "$base/debian/usr/share"; }
pinned="import yaml, importlib.metadata as m; assert (m.version('pyyaml'), m.version('jsonschema')) == ('$pyyaml', '$jsonschema')"
"$base/venv/bin/python3" -c "$pinned" 2>/dev/null || {
  python3 -m venv "$base/venv" && "$base/venv/bin/pip" install -q --disable-pip-version-check "pyyaml==$pyyaml" "jsonschema==$jsonschema" ||
  cant "PyYAML and jsonschema (PyPI)"; }
made=$kubernetes+$operator+$compose+$(cksum <"$here/schemas.py" | cut -d' ' -f1)
[ -e "$base/schemas/.$made" ] || {
  k=$(module "k8s.io/kubernetes@$kubernetes") && [ -n "$k" ] || cant "Kubernetes' schemas (Go module k8s.io/kubernetes $kubernetes)"
  o=$(module "github.com/prometheus-operator/prometheus-operator@$operator") && [ -n "$o" ] || cant "the Prometheus operator's CRDs (Go module)"
  c=$(module "github.com/compose-spec/compose-go/v2@$compose") && [ -n "$c" ] || cant "the schema of compose files (Go module)"
  rm -rf "$base/schemas"
  "$base/venv/bin/python3" "$here/schemas.py" "$k/api/openapi-spec/swagger.json" "$o/example/prometheus-operator-crd" "$base/schemas" >&2
  cp "$c/schema/compose-spec.json" "$base/schemas/"; : >"$base/schemas/.$made"; }
echo "$base"
