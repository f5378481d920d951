"""Pairs of gold and answer by the kinds that other people's outputs and tests showed.

Under each kind: answers that are right, then neighbours of them that must not be paid.
"""

Pairs = list[tuple[str, str]]

OUTSIDE: dict[str, tuple[Pairs, Pairs]] = {
    "choice": (
        [
            ("BDE", "B, D, E"),
            ("BDE", "B、D、E"),
            ("BDE", r"\text{B, D and E}"),
            ("BDE", r"B,\;D,\;E"),
            ("B, E", "BE"),
            ("C", "C（7）"),
            ("C", r"C\left(\frac{\sqrt{17}}{4}\right)"),
            ("C", r"\text{C }(x=2)"),
            (r"\textbf{(D)}\ 36", "D"),
            (r"\textbf{(D)}\ 36", "36"),
            (r"\textbf{(D)}\ 36", r"\textbf{(D)}\ 36"),
            (r"\text{(E)}\ \frac{2}{7}", r"\frac{4}{14}"),
            ("(B) 9", "B"),
            ("(B) Monday", r"\text{Monday}"),
            ("D", r"\text{(D) } 8"),
        ],
        [
            ("B", "A. 3; B. 4"),
            ("A", "A. 3; B. 4"),
            ("A", "(A) 7 (B) 8 (C) 9"),
            ("C", "(A) 7 (B) 8 (C) 9"),
            ("A", r"\text{(A) or perhaps (C)}"),
            ("A", r"(A) \text{ or } (D)"),
            ("A", r"\textbf{(A)}\ 3 \text{ or } \textbf{(D)}\ 4"),
            ("A", r"\text{A) } 3 \\ \text{B) } 4"),
            ("B", "B(A)"),
            ("B", r"B (\text{not A})"),
            ("B", r"\text{B or C}"),
            ("BDE", "B, D"),
            ("BD", "BDE"),
            ("BD", "B, D, E"),
            (r"\textbf{(D)}\ 36", "E"),
            (r"\textbf{(D)}\ 36", "37"),
            (r"\textbf{(D)}\ 36", r"\textbf{(A)}\ 36"),
            (r"\textbf{(D)}\ 36", r"\text{(A) } 35 \text{ (D) } 36"),
            ("7", "(A) 7 (B) 8"),
        ],
    ),
    "digit groups and lists": (
        [
            ("(1,2,300)", "(1, 2, 300)"),
            (r"\{4,5,600\}", r"\{4, 5, 600\}"),
            ("7,80,900", "7, 80, 900"),
            ("0,500", "0, 500"),
            ("[-20,150]", "[-20, 150]"),
            (r"(7,215^\circ)", r"(7, 215^\circ)"),
            ("(2,9,204, 310)", "(2, 9, 204, 310)"),
            ("112, 350, 471", "112,350,471"),
            (r"k\in\{2,200,301\}", r"k \in \{2, 200, 301\}"),
            (r"22,\! 333,\! 444", "22,333,444"),
            ("22333444", r"22,\! 333,\! 444"),
            ("(2,500, 7,500)", "(2500, 7500)"),
            ("12,345", "12345"),
        ],
        [
            ("(1,2,300)", "(1,2300)"),
            (r"\{4,5,600\}", r"\{4,5600\}"),
            ("7,80,900", "7,80900"),
            ("[-20,150]", "-20150"),
            (r"(7,215^\circ)", "7215"),
            ("(2,9,204, 310)", "(2, 9204, 310)"),
            ("112, 350, 471", "112350471"),
            ("12,345", "12, 345"),
            ("0,500", "500"),
            (r"22,\! 333,\! 444", "22, 333, 444"),
        ],
    ),
    "open sums": (
        [
            (r"\prod_{a=b}^{c} 3x", r"\prod^{c}_{a=b} 3x"),
            (r"\sum_{k=m}^{n} k^2", r"\sum_{i=m}^{n} i^2"),
            (r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}"),
            (r"\frac{n(n+1)}{2}", r"\frac{n^2+n}{2}"),
        ],
        [
            (r"\sum_{a=b}^{c} x", r"\sum_{a=b}^{c} 3x"),
            (r"\sum_{k=m}^{n} k^2", r"\sum_{i=m}^{n} i^3"),
            (r"\sum_{k=1}^{n} k", r"\frac{n(n-1)}{2}"),
            (r"\frac{n(n+1)}{2}", r"\sum_{k=1}^{n} k"),
        ],
    ),
}
