#!/usr/bin/env bash
# What a GPU is for, in six parts, called until they are done; a call ends within ten minutes.
#
#   experiments/gpu.sh PART… [--device cuda] [--data CIFAR-10] [--out runs/gpu] [--tiny]
#
#   tests      what runs on a device, against the processor (tests/test_device.py)
#   speed      which way of training candidates is the fastest (gpu_speed.py), and make bench
#   sets       proxy sets of CIFAR-10: random and herding, 10 and 50 images a class; GM, 10
#   strong     proxy sets of CIFAR-10: RCIG, 10 images a class; APM, 50 (its experts are kept)
#   cells      NAS-Bench-201: 100 cells, 391 updates in batches of 256, three seeds, on every set, and early stopping
#   convnets   the 720 ConvNets on every set of ten; and a sample of them on the whole data
#
# Without a PART all six are called, in this order. A call ends after LIMIT seconds (540), or when the parts are done; the same call goes
# on where it was, also on another machine, given --out and the cache (PROXYNAS_CACHE, by default OUT/cache). Exit code 0: done; 75: call
# it again; `proxynas report OUT/cells` shows what there is so far. The cells and ConvNets need all sets, and take several calls.
# --tiny sees that everything runs, on digits, in minutes: experiments/gpu.sh --tiny --device cpu.
# CIFAR-10 is a folder of its images (train/<class>/*, test/<class>/*). PYTHON names the interpreter (python); it needs what
# pip install '.[dev,nasbench201]' installs.
set -euo pipefail

SETS=(random-ipc10 random-ipc50 herding-ipc10 herding-ipc50 gm-ipc10 rcig-ipc10 apm-ipc50)

main() {
  local calls=()
  device=cuda data=CIFAR-10 out=runs/gpu tiny=""
  while (($#)); do
    case $1 in
      --tiny) tiny=yes ;;
      --device | --data | --out)
        [[ $# -ge 2 && -n $2 && $2 != --* ]] || usage "$1 needs a value"
        printf -v "${1#--}" %s "$2"
        shift
        ;;
      -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
        exit 0
        ;;
      tests | speed | sets | strong | cells | convnets) calls+=("$1") ;;
      *) usage "there is no $1" ;;
    esac
    shift
  done
  ((${#calls[@]})) || calls=(tests speed sets strong cells convnets)
  if [[ -n $tiny ]]; then
    data=digits
    SETS=(random-ipc10 herding-ipc50 gm-ipc10 rcig-ipc10 apm-ipc50)
  fi
  python=${PYTHON:-python}
  here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
  unfinished=""
  failed=""
  mkdir -p -- "$out"
  export PROXYNAS_CACHE=${PROXYNAS_CACHE:-$out/cache}
  export PYTHONPATH=$here/..${PYTHONPATH:+:$PYTHONPATH}
  deadline=$((SECONDS + ${LIMIT:-540}))
  for call in "${calls[@]}"; do
    echo "== $call on $device"
    "call_$call"
  done
  if [[ -n $failed ]]; then
    echo "error: failed: $failed" >&2
    exit 1
  fi
  if [[ -n $unfinished ]]; then
    echo "not done yet: call it again"
    exit 75
  fi
}

usage() {
  echo "error: $1; see $0 --help" >&2
  exit 2
}

# Run a command until the call's time is over: an interrupt makes it keep what it has.
run() {
  local left=$((deadline - SECONDS)) code=0
  if ((left < 5)); then
    unfinished=yes
    return
  fi
  echo "-- $*"
  timeout --foreground --signal=INT --kill-after=30 "$left" "$@" || code=$?
  if ((code == 124 || (code == 137 && SECONDS >= deadline))); then
    unfinished=yes
  elif ((code == 130)); then
    exit 130
  elif ((code)); then
    echo "error: exit code $code of: $*" >&2
    return "$code"
  fi
}

proxynas() { run "$python" -m proxynas "$@" --device "$device"; }

call_tests() {
  PROXYNAS_TEST_DEVICE=$device run "$python" -m pytest -q -p no:cacheprovider "$here/../tests/test_device.py" \
    ${tiny:+-k "zero_cost or evaluated"} || failed=tests
}

call_speed() {
  run "$python" "$here/gpu_speed.py" --device "$device" --out "$out/speed.json" ${tiny:+--tiny}
  if [[ -z $tiny && -z $unfinished && ! -f $out/bench.txt ]]; then
    run "$python" -m proxynas.cli.bench --device "$device" --repeats 5 >"$out/bench.part"
    [[ -n $unfinished ]] || mv -- "$out/bench.part" "$out/bench.txt"
  fi
}

# A set of SETS that is not there yet, of so many images a class.
distil() {
  local name=$1 ipc=$2
  shift 2
  [[ " ${SETS[*]} " == *" $name "* ]] || return 0
  [[ -f $out/$name.safetensors ]] || proxynas distill --data "$data" --ipc "$ipc" --out "$out/$name.safetensors" "$@"
}

call_sets() {
  local gm=(--seconds 400 --set init=real --set inner=10) herding=() more=50
  if [[ -n $tiny ]]; then
    gm=(--steps 1 --set outer=1)
    herding=(--set updates=5)
    more=20
  fi
  distil random-ipc10 10 --method random
  distil random-ipc50 $more --method random
  distil herding-ipc10 10 --method herding "${herding[@]}"
  distil herding-ipc50 $more --method herding "${herding[@]}"
  distil gm-ipc10 10 --method gm "${gm[@]}"
}

call_strong() {
  local rcig=(--seconds 240) apm=(--seconds 1800 --set experts=10 --set expert_epochs=20) more=50
  apm+=(--set augment=color+crop+cutout+flip+scale+rotate)
  if [[ -n $tiny ]]; then
    rcig=(--steps 1 --set n_inner=2 --set n_hinv=2 --set pool=2)
    apm=(--steps 1 --set experts=1 --set expert_epochs=1 --set epochs=1 --set checkpoints=1)
    more=20
  fi
  distil rcig-ipc10 10 --method rcig "${rcig[@]}"
  distil apm-ipc50 $more --method apm "${apm[@]}"
}

# Whether all sets are there: what candidates are trained on may not change from call to call.
all_sets() {
  local name
  for name in "${SETS[@]}"; do
    if [[ ! -f $out/$name.safetensors ]]; then
      echo "-- $name is not there yet: sets and strong come first"
      unfinished=yes
      return 1
    fi
  done
}

# All sets whose names end so, but for one, each behind --also.
also() {
  local name
  for name in "${SETS[@]}"; do
    [[ $name != *"$1" || $name == "$2" ]] || printf -- '--also\n%s\n' "$out/$name.safetensors"
  done
}

call_cells() {
  all_sets || return 0
  local more first=random-ipc50 sizes=(--candidates 100 --seeds 3 --updates 391 --val-size 5000 --workers 4 --truth-data cifar10)
  if [[ -n $tiny ]]; then
    first=herding-ipc50
    sizes=(--candidates 2 --updates 1 --val-size 50 --workers 1 --truth none --space-option cells=1 --space-option channels=4)
  fi
  mapfile -t more < <(also "" $first)
  proxynas search --space nasbench201 --data "$data" --proxy "$out/$first.safetensors" "${more[@]}" "${sizes[@]}" \
    --batch-size 256 --lr 0.1 --recipe nesterov=true --recipe schedule=cosine \
    --recipe augment=color+crop+cutout+flip+scale+rotate --baseline early-stopping --baseline zero-cost \
    --label 0 --verify 0 --out "$out/cells"
}

call_convnets() {
  all_sets || return 0
  local more sizes=(--strategy all --seeds 3 --updates 100 --workers 4)
  local whole=(--candidates 60 --seeds 2 --epochs 10 --workers 2 --time-limit 300)
  mapfile -t more < <(also -ipc10 random-ipc10)
  if [[ -n $tiny ]]; then
    sizes=(--candidates 2 --constraint 'flops<1e6' --updates 1 --val-size 50 --workers 1)
    whole=(--candidates 2 --constraint 'flops<1e6' --seeds 1 --epochs 1 --workers 1)
  fi
  proxynas truth --space convnet-grid --data "$data" "${whole[@]}" --batch-size 256 --out "$out/convnets-truth.csv"
  [[ -z $unfinished ]] || return 0
  proxynas search --space convnet-grid --data "$data" --proxy "$out/random-ipc10.safetensors" "${more[@]}" "${sizes[@]}" \
    --baseline early-stopping --baseline zero-cost --truth "$out/convnets-truth.csv" --label 0 --verify 0 --out "$out/convnets"
}

main "$@"
