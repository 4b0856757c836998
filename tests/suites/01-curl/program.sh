# curl, on the default hosts of three providers, over HTTP/1.1 and HTTP/2.
set -eu
cat /proc/$$/environ >environment

ask() {
    curl --silent --show-error --fail-with-body --max-time 60 "$@"
    echo
}

chat='{"model":"gpt-standin","messages":[{"role":"user","content":"hello"}]}'
for version in --http1.1 --http2; do
    ask "$version" https://api.openai.com/v1/chat/completions -o answer.json \
        -w '%{http_code} HTTP/%{http_version}' \
        -H "Authorization: Bearer $OPENAI_API_KEY" -H 'Content-Type: application/json' -d "$chat"
    grep -o '"content":"[^"]*"' answer.json
    ask "$version" --no-buffer https://api.openai.com/v1/chat/completions -o stream.txt \
        -w '%{http_code} HTTP/%{http_version}' \
        -H "Authorization: Bearer $OPENAI_API_KEY" -H 'Content-Type: application/json' -d "${chat%\}},\"stream\":true}"
    grep -c '^data: ' stream.txt
done
ask https://api.github.com/user -H "Authorization: token $GITHUB_TOKEN" | grep -o '"login":"[^"]*"'
ask https://api.github.com/user -H "Authorization: Bearer $GITHUB_TOKEN" | grep -o '"login":"[^"]*"'
ask https://gitlab.com/api/v4/user -H "PRIVATE-TOKEN: $GITLAB_TOKEN" | grep -o '"username":"[^"]*"'
