# git over HTTPS against a server that wants Basic: clone, push a branch, push main, fetch.
set -eu
cat /proc/$$/environ >environment
export GIT_AUTHOR_NAME=ada GIT_AUTHOR_EMAIL=ada@example.com
export GIT_COMMITTER_NAME=ada GIT_COMMITTER_EMAIL=ada@example.com

url=https://x-access-token:$GITHUB_TOKEN@github.com/ada/demo.git
git clone --quiet "$url" demo
cat demo/README.md
cd demo
git checkout --quiet -b work
head -c 3000000 /dev/urandom >large # past http.postBuffer: the push is chunked
git add large
git commit --quiet -m 'demo: add a large file'
git push --quiet origin work
git checkout --quiet main
git merge --quiet --ff-only work
git push --quiet origin main
git ls-remote --heads origin | sed 's/^[0-9a-f]*.//'
cd ..
git clone --quiet "$url" again
git -C again log --format=%s
cmp demo/large again/large && echo same
