"""Learning word pieces from word counts, the same every time.

Pieces are learnt by merging the most frequent pair of neighbours again and again (Sennrich, Haddow,
Birch 2016), which is how the ``tokenizers`` library trains WordPiece too. Its own trainer numbers
pieces in the order of a randomly seeded hash table and breaks ties by those numbers, so that two
runs on the same captions give different vocabularies; here ties go to the pair that sorts first.
"""

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping

PREFIX = "##"
MAX_ALPHABET = 1000  # characters beyond the most frequent are unknown, as in BERT's own vocabulary

Pair = tuple[str, str]


def learn_pieces(counts: Mapping[str, int], n_pieces: int) -> list[str]:
    """At most ``n_pieces`` pieces of the words that ``counts`` holds: single characters first, then merges in order.

    A character takes two places, one at a word's start and one inside; where not all fit, the
    most frequent are kept, and a word with another one is left out.
    """
    letters: Counter[str] = Counter()
    for word, count in counts.items():
        for letter in word:
            letters[letter] += count
    by_count = sorted(letters, key=lambda letter: (-letters[letter], letter))
    alphabet = set(by_count[: min(MAX_ALPHABET, n_pieces // 2)])
    words = {
        word: [letter if i == 0 else PREFIX + letter for i, letter in enumerate(word)]
        for word in sorted(counts)
        if alphabet.issuperset(word)
    }
    pieces = sorted(alphabet) + sorted(PREFIX + letter for letter in alphabet)
    known = set(pieces)
    merges = _Merges(words, counts)
    while len(pieces) < n_pieces:
        merged = merges.merge_next()
        if merged is None:
            break
        if merged not in known:
            known.add(merged)
            pieces.append(merged)
    return pieces


class _Merges:
    """Words as sequences of pieces, and the count of every pair of neighbours among them."""

    def __init__(self, words: dict[str, list[str]], counts: Mapping[str, int]) -> None:
        self._words = words
        self._counts = counts
        self._pair_counts: Counter[Pair] = Counter()
        self._words_of: defaultdict[Pair, set[str]] = defaultdict(set)
        for word, pieces in words.items():
            for pair in itertools.pairwise(pieces):
                self._pair_counts[pair] += counts[word]
                self._words_of[pair].add(word)
        self._queue = [(-count, pair) for pair, count in self._pair_counts.items()]
        heapq.heapify(self._queue)

    def merge_next(self) -> str | None:
        """Merge the most frequent pair wherever it stands; the new piece, or None when no pair is left."""
        while self._queue:
            count, pair = heapq.heappop(self._queue)
            if -count == self._pair_counts[pair] and count < 0:  # entries of earlier counts are passed over
                self._merge(pair)
                return pair[0] + pair[1].removeprefix(PREFIX)
        return None

    def _merge(self, pair: Pair) -> None:
        merged = pair[0] + pair[1].removeprefix(PREFIX)
        changed: set[Pair] = set()
        for word in self._words_of.pop(pair):
            old = self._words[word]
            new = _join(old, pair, merged)
            self._words[word] = new
            for sign, pieces in ((-1, old), (1, new)):
                for neighbours in itertools.pairwise(pieces):
                    self._pair_counts[neighbours] += sign * self._counts[word]
                    changed.add(neighbours)
            for neighbours in itertools.pairwise(new):
                self._words_of[neighbours].add(word)
        for neighbours in changed:
            if self._pair_counts[neighbours] > 0:
                heapq.heappush(self._queue, (-self._pair_counts[neighbours], neighbours))


def _join(pieces: list[str], pair: Pair, merged: str) -> list[str]:
    """The sequence with every occurrence of the pair joined, from the left."""
    joined: list[str] = []
    i = 0
    while i < len(pieces):
        if pieces[i] == pair[0] and i + 1 < len(pieces) and pieces[i + 1] == pair[1]:
            joined.append(merged)
            i += 2
        else:
            joined.append(pieces[i])
            i += 1
    return joined
