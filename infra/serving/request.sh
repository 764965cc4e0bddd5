#!/bin/sh
# Write the body of a request that classifies one sample and is answered in readable JSON:
#   sh infra/serving/request.sh FILE [KIND] |
#     curl -s --data-binary @- -H @.state/door/keys/realtime/local -H Inference-Header-Content-Length:256 \
#     127.0.0.1:8000/v2/models/fashion/infer
# It is a JSON header of exactly 256 bytes, the file's length in 4 bytes (little endian), and the file.
# KIND is the name of the server's input; image where it is left out.
set -eu

if [ $# -lt 1 ] || [ $# -gt 2 ] || [ ! -r "$1" ] || [ ! -f "$1" ]; then
    echo "usage: sh infra/serving/request.sh FILE [KIND] (a file that can be read)" >&2
    exit 1
fi

size=$(($(wc -c <"$1")))
sample='{"name":"'${2:-image}'","shape":[1,1],"datatype":"BYTES","parameters":{"binary_data_size":'$((size + 4))'}}'
json='{"name":"%s","parameters":{"binary_data":false}}'
# shellcheck disable=SC2059
printf '%-256s' "{\"inputs\":[$sample],\"outputs\":[$(printf "$json,$json" label scores)]}"
for bits in 0 8 16 24; do
    # shellcheck disable=SC2059
    printf "$(printf '\\%03o' $((size >> bits & 255)))"
done
cat -- "$1"
