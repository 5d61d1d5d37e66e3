import sys

import six


def main():
    for word in sorted(set(six.ensure_text(sys.stdin.read()).split())):
        print(word)
