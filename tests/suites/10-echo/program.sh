# An upstream that reflects the key in every way it can: nothing of it comes back.
set -eu
cat /proc/$$/environ >environment

ask() {
    curl --silent --show-error --max-time 60 --include -H "Authorization: Bearer $OPENAI_API_KEY" \
        -o answer -w '%{http_code} HTTP/%{http_version}\n' "$@"
    cat answer >>answers
}

for version in --http1.1 --http2; do
    for as in raw base64 base64url hex hex-upper percent percent-lower json html html-hex; do
        for pad in 0 1 2; do
            ask "$version" "https://api.openai.com/echo-encoded?as=$as&pad=$pad"
        done
    done
    ask "$version" https://api.openai.com/echo
    ask "$version" --compressed https://api.openai.com/gzip-echo
    ask "$version" https://api.openai.com/setcookie-echo
    ask "$version" --no-buffer 'https://api.openai.com/sse-echo?events=3'
done
