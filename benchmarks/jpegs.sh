#!/bin/sh
# From a folder of generated JPEGs to an evaluated condensed set of 100 classes, in five parts. At
# 224 pixels and 10 classes: SIZE=224 CLASSES=10 SUB=5 sh benchmarks/jpegs.sh
set -eu
WORK=${1:-runs/jpegs}
SIZE=${SIZE:-64} CLASSES=${CLASSES:-100} SUB=${SUB:-20} PER_CLASS=${PER_CLASS:-40} TEST=${TEST:-10}
RECIPE=benchmarks/jpegs.toml
DATA="-d imagenet --nclass $CLASSES --data_dir $WORK/images --size $SIZE --cache_dir $WORK/cache"

python -m benchmarks.jpegs "$WORK/images" --classes "$CLASSES" --per_class "$PER_CLASS" --test "$TEST" --side "$SIZE"
attar pretrain --recipe $RECIPE $DATA --out "$WORK/pool" ${MORE_POOL:-}
phase=0
parts=""
while [ $((phase * SUB)) -lt "$CLASSES" ]; do
    attar condense --recipe $RECIPE $DATA --model_path "$WORK/pool" --nclass_sub "$SUB" --phase $phase \
        --out "$WORK/part$phase" --overwrite ${MORE_CONDENSE:-}
    parts="$parts $WORK/part$phase"
    phase=$((phase + 1))
done
attar merge $parts --out "$WORK/whole"
attar evaluate "$WORK/whole" ${MORE_EVALUATE:-}
