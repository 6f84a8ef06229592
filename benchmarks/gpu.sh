#!/bin/bash
# Everything that only a GPU can answer, in ten minutes on one H100: OUT=FOLDER benchmarks/gpu.sh
#
#   OUT=FOLDER benchmarks/gpu.sh [--device cuda|cpu] [--tiny] [--only PART,PART]     the parts below
#   OUT=FOLDER benchmarks/gpu.sh --only german [--seconds 1200]                      then, by itself; goes on if repeated
#
# FOLDER/results.jsonl gets what each part found and how it ended, FOLDER/log all that it said (gpu/part.py). A part that
# fails or takes too long does not stop the others. Nothing is fetched. The machine needs torch, transformers, numpy, scipy,
# regex and pytest; accelerate for the Trainer; what else is needed can be carried: `python benchmarks/gpu/carry.py`
# puts packages, text and tokenizer into the folder `carried`, which is used where it is there. --tiny --device cpu runs the
# same commands in miniature: that is this script's test.
#
#   part        asks                                                        about
#   about       device, versions, speed of a matrix product                  10 s
#   tests       tests/train/test_cuda.py                                     60 s
#   attention   varlen attention = the mask?                                 15 s
#   eightbit    8-bit moments learn alike, resume exactly; nf4 on 2 devices  30 s
#   gate        trained on CUDA, checked on CPU                              30 s
#   speed-*     tokens/s, MFU, memory beside HF Trainer, compiled or not    180 s
#   memory-*    the memory formula; lora and qlora of 8B in 24 GB           180 s
#   german      SmolLM2's tokenizer and shape on carried German text       1200 s
set -u
cd "$(dirname "$0")/.." || exit 1
OUT=${OUT:?name a folder for the results: OUT=FOLDER benchmarks/gpu.sh}
PYTHON=${PYTHON:-python3}
device=cuda tiny=no only="" seconds=1200
while [ $# -gt 0 ]; do
    case $1 in
        --device) device=$2; shift 2 ;;
        --tiny) tiny=yes; shift ;;
        --only) only=$2; shift 2 ;;
        --seconds) seconds=$2; shift 2 ;;
        *) echo "gpu.sh: unknown: $1" >&2; exit 2 ;;
    esac
done
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
[ -d carried/packages ] && PYTHONPATH="$PYTHONPATH:$PWD/carried/packages"
cuda=(); [ "$device" = cuda ] && cuda=(--cuda)

part() { # NAME SECONDS COMMAND...
    local name=$1 limit=$2
    shift 2
    if [ -n "$only" ] && [[ ",$only," != *",$name,"* ]]; then return; fi
    if [ -z "$only" ] && [ "$name" = german ]; then return; fi
    "$PYTHON" benchmarks/gpu/part.py "$OUT" "$name" "$limit" "$PYTHON" "$@"
}

speed() { # NAME MODEL LENGTH MICRO_BATCH STEPS [OPTION...]
    part "speed-$1" 90 benchmarks/throughput.py "${cuda[@]}" --model "$2" --length "$3" --micro-batch "$4" --steps "$5" \
        --warmup 3 --turns 1 --arms ours trainer "${@:6}"
}

memory() { # NAME MODEL LENGTH MICRO_BATCH METHODS ACTIVATIONS [OPTION...]
    part "memory-$1" 120 benchmarks/memory.py "${cuda[@]}" --model "$2" --length "$3" --micro-batch "$4" \
        --methods $5 --activations $6 "${@:7}"
}

part about 60 benchmarks/gpu/about.py
part tests 120 -m pytest -q -p no:cacheprovider tests/train/test_cuda.py
if [ "$device" = cuda ]; then part attention 60 benchmarks/gpu/attention.py; fi
if [ $tiny = yes ]; then
    part eightbit 120 benchmarks/gpu/eightbit.py "${cuda[@]}" --steps 6
    part gate 120 benchmarks/gpu/gate.py --device "$device"
    speed tiny tiny 64 1 1
    memory tiny tiny 32 1 "full qlora" none
else
    part eightbit 90 benchmarks/gpu/eightbit.py "${cuda[@]}"
    part gate 90 benchmarks/gpu/gate.py --device "$device"
    speed 135m-compiled 135m 2048 16 10 --compile
    speed 1b-compiled 1b 2048 4 8 --accumulate 2 --compile
    memory 8b 8b 2048 1 "qlora lora" full --card 24
    speed 1b 1b 2048 4 8 --accumulate 2
    memory 1b 1b 2048 2 "full full8bit lora qlora" full
    speed 135m 135m 2048 16 10
    memory 135m 135m 2048 4 full "none selective full"
fi
# Stopped by its limit it saves; the same command goes on.
part german "$seconds" benchmarks/gpu/german.py --device "$device" --out "$OUT/german"
