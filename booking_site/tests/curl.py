"""What the README uses of curl, for machines that have none; and a note of what was answered.

Arguments that it does not know are an error, so that nothing passes here that fails with curl.
"""

import argparse
import os
import sys
import urllib.error
import urllib.request
from urllib.parse import urlsplit

FORM = "Content-Type: application/x-www-form-urlencoded"  # what curl says of -d, unless told


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-s", action="store_true")
    parser.add_argument("-w", default="")
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("-d")
    parser.add_argument("-X")
    parser.add_argument("url")
    given = parser.parse_args()
    method = given.X or ("GET" if given.d is None else "POST")
    headers = dict(line.split(": ", 1) for line in [*([FORM] if given.d else []), *given.H])
    body = None if given.d is None else given.d.encode()
    request = urllib.request.Request(given.url, body, headers, method=method)
    try:
        answer = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        answer = error
    with open(os.environ["CURL_LOG"], "a") as log:
        log.write(f"{answer.status} {method} {urlsplit(given.url).path}\n")
    sys.stdout.write(answer.read().decode() + given.w.replace("\\n", "\n"))


main()
