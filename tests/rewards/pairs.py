"""Pairs of gold and answer, invented here by category: which answers are right, which are wrong."""

RIGHT = {
    "integer": [
        ("17", "+17"), ("17", "017"), ("17", "17."), ("-9", "−9"), ("-9", "- 9"), ("17", r"\mathrm{17}"),
        ("17", "17.000"), ("17", r"\frac{34}{2}"), ("17", r"\left(17\right)"), ("0", "-0"),
        ("17", r"$17$"), ("17", r"\[17\]"), ("17", r"{17}"), ("17", r"\text{17 }"), ("64", r"4^3"),
        ("17", r"\approx 17"), ("17", r"= 17"), ("17", "17\\!"), ("30", r"2 \cdot 3 \cdot 5"),
        ("8", r"\sqrt{64}"), ("4", r"\sqrt[3]{64}"), ("-3", r"\sqrt[3]{-27}"), ("5", r"|-5|"),
        ("3", r"\lfloor \pi \rfloor"), ("1", r"e^0"), ("6", "3!"), ("20", r"\binom{6}{3}"),
        ("4", r"\log_3 81"), ("2", r"\ln e^2"), ("1", r"\sin\frac{\pi}{2}"), ("7", "seven"),
        ("1", r"\sin^2 1 + \cos^2 1"), ("2", r"2^{1}"), ("12", "12\\\\"), ("3", r"\displaystyle 3"),
    ],
    "fraction": [
        (r"\frac{7}{12}", "7/12"), (r"\frac{7}{12}", r"\dfrac{14}{24}"), (r"\frac{7}{12}", r"\frac7{12}"),
        (r"-\frac{2}{9}", r"\frac{-2}{9}"), (r"-\frac{2}{9}", r"\frac{2}{-9}"), (r"\frac{3}{4}", "0.75"),
        (r"-\frac{2}{9}", "-2/9"), (r"\frac{3}{4}", r"\frac{1}{2}+\frac{1}{4}"), (r"\frac{3}{4}", ".75"),
        (r"\frac{3}{4}", r"1-\frac14"), (r"\frac{1}{2^{10}}", r"\frac{1}{1024}"), ("5/3", r"\frac53"),
        (r"\frac{x+1}{3}", r"\frac{1}{3}(x+1)"), (r"\frac{x+1}{3}", r"\frac{x}{3} + \frac13"),
        (r"\frac{2}{3}", r"\frac{\frac{4}{3}}{2}"), (r"\frac{p}{q}", "p/q"), (r"\frac{9}{4}", "2.25"),
        (r"\frac{9}{4}", r"\left(\frac{3}{2}\right)^2"), (r"\frac{1}{8}", "2^{-3}"), ("1/6", r"\frac{1}{3!}"),
        (r"\frac{a}{bc}", r"\frac{a}{b c}"), (r"\frac{a}{bc}", "a/(bc)"), (r"\frac{5}{8}", r"5 \div 8"),
    ],
    "decimal": [
        ("1.25", "1.250"), ("1.25", r"\frac{5}{4}"), ("0.04", r"4 \times 10^{-2}"), (".5", "0.5"),
        ("1.25", "5/4"), ("0.04", "4e-2"), ("12.0", "12"), ("3.50", "3.5"), ("0.125", r"\frac18"),
        (r"\frac{1}{3}", "0.33333333333"), (r"\sqrt{2}", "1.41421356237"), (r"\frac{2}{3}", "0.6666666667"),
        (r"\pi", "3.14159265359"), ("-0.5", "-.5"), ("-0.5", r"-\frac{1}{2}"), ("2.5", r"2\frac{1}{2}"),
    ],
    "radical": [
        (r"5\sqrt{3}", r"\sqrt{75}"), (r"5\sqrt{3}", r"5 \times \sqrt{3}"), (r"5\sqrt{3}", "5√3"),
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"), (r"\frac{\sqrt{2}}{2}", r"2^{-1/2}"),
        (r"\sqrt{6}", r"\sqrt{2}\sqrt{3}"), (r"2-\sqrt{3}", r"\frac{1}{2+\sqrt{3}}"),
        (r"2-\sqrt{3}", r"\sqrt{7-4\sqrt{3}}"), (r"\sqrt{5}-1", r"-1+\sqrt5"), (r"\sqrt[3]{4}", "4^{1/3}"),
        (r"\sqrt[3]{4}", r"2^{\frac23}"), (r"3\sqrt[3]{2}", r"\sqrt[3]{54}"), (r"\sqrt{337}", r"\frac{337}{\sqrt{337}}"),
        (r"2\sqrt{1009}", r"\sqrt{4036}"), (r"x\sqrt{x}", r"x^{3/2}"), (r"\sqrt{x^2+1}", r"(1+x^2)^{1/2}"),
        (r"\frac{1+\sqrt{17}}{4}", r"\frac{\sqrt{17}+1}{4}"), (r"\sqrt{\frac{3}{5}}", r"\frac{\sqrt{15}}{5}"),
        (r"\sqrt{2}+\sqrt{3}", r"\sqrt{5+2\sqrt{6}}"), (r"10\sqrt{2}", r"\frac{20}{\sqrt{2}}"),
        (r"\sqrt[4]{9}", r"\sqrt{3}"), (r"4\sqrt{13}", r"\sqrt{208}"), (r"6\sqrt{2}", r"sqrt(72)"),
    ],
    "algebra": [
        ("x^2-9", "(x-3)(x+3)"), ("x^2-9", "-9+x^2"), ("2a+3b", "3b+2a"), ("x^3y", "yx^3"), ("2n+1", "1+n+n"),
        (r"\frac{x}{y}", r"x \cdot y^{-1}"), (r"\frac{1}{n(n+1)}", r"\frac1n-\frac1{n+1}"), ("n^2", r"n \cdot n"),
        (r"(a+b)^2", "a^2+2ab+b^2"), (r"4x(x-1)", "4x^2-4x"), (r"\frac{2x+4}{2}", "x+2"), ("x_1+x_2", "x_2+x_1"),
        (r"\alpha+\beta", r"\beta+\alpha"), (r"2^{n+1}", r"2\cdot 2^n"), (r"4^n", r"2^{2n}"), (r"e^{2x}", r"(e^x)^2"),
        (r"\frac{3^n-1}{2}", r"\frac{1}{2}(3^n-1)"), (r"(x-1)^3", "x^3-3x^2+3x-1"), (r"|x|", r"\left|x\right|"),
        (r"|x|", r"\lvert x \rvert"), (r"|x|", r"\sqrt{x^2}"), ("a^{m+n}", "a^m a^n"), (r"\frac{a-b}{c}", r"-\frac{b-a}{c}"),
        (r"(n+1)!", r"(n+1)\cdot n!"), (r"\binom{n}{2}", r"\frac{n(n-1)}{2}"), (r"(-1)^n", r"(-1)^{n+2}"),
        (r"2x^2+C", r"C+2x^2"), (r"\frac{x^2-4}{x+2}", "x-2"), (r"a_n", r"a_{n}"), ("x**2+1", "x^2+1"),
    ],
    "transcendental": [
        (r"\ln 6", r"\ln 2 + \ln 3"), (r"2\ln 3", r"\ln 9"), (r"\frac{\pi}{6}", r"\pi/6"), (r"\frac{\pi}{6}", r"30^\circ"),
        (r"\frac{3\pi}{4}", r"0.75\pi"), (r"\pi^2", r"\pi\cdot\pi"), (r"e^{-1}", r"\frac1e"), (r"\log_2 5", r"\frac{\ln 5}{\ln 2}"),
        (r"\sin 2x", r"2\sin x\cos x"), (r"\tan x", r"\frac{\sin x}{\cos x}"), (r"\cos^2 x", r"1-\sin^2 x"),
        (r"\arctan 1", r"\frac{\pi}{4}"), (r"\frac{e^x-e^{-x}}{2}", r"\sinh x"), (r"\ln(x^2+1)", r"\ln(1+x^2)"),
        (r"\frac{\sqrt{3}}{2}", r"\sin 60^\circ"), (r"2\pi", r"6\pi/3"), (r"\exp(x)", "e^x"), (r"\ln\frac{1}{2}", r"-\ln 2"),
        (r"\log_{10} 2", r"\log 2"), (r"\ln 5", r"\log 5"), (r"3^{20}", "3486784401"), (r"9^{10}", r"3^{20}"),
        (r"\sin^{-1}\frac{1}{2}", r"\frac{\pi}{6}"), (r"\frac{\pi}{2}-\arctan 2", r"\arctan\frac12"), ("e^2", r"\mathrm{e}^{2}"),
        ("np.arcsin(5/13)", r"\arcsin\frac{5}{13}"), ("np.arcsin(5/13)", r"\sin^{-1}(5/13)"),
    ],
    "complex": [
        ("2-5i", "-5i+2"), ("2-5i", "2 - 5 i"), (r"i", r"\sqrt{-1}"), (r"-1", "i^2"), (r"\frac{3+i}{2}", r"\frac{3}{2}+\frac{1}{2}i"),
        (r"(1+i)^2", "2i"), (r"\frac{1}{i}", "-i"), (r"5i", r"i\cdot 5"), (r"e^{i\pi/3}", r"\frac12+\frac{\sqrt3}{2}i"),
        (r"1+i\sqrt{3}", r"1+\sqrt{3}i"), (r"2i,-2i", r"\pm 2i"), (r"\cos\frac{\pi}{5}+i\sin\frac{\pi}{5}", r"e^{\frac{i\pi}{5}}"),
        ("13", "(2+3i)(2-3i)"), (r"3-4i", r"\overline{}3-4i".replace(r"\overline{}", "")),
    ],
    "tuple": [
        ("(4,-7)", "(4, -7)"), ("(4,-7)", r"\left( 4, -7 \right)"), (r"(\frac12,3)", "(0.5,3)"), ("(1,2),(2,1)", "(2,1),(1,2)"),
        ("(4,-7)", "(x,y)=(4,-7)"), ("(4,-7)", r"(8/2,-7)"), ("(1,2,3,4)", "(1, 2, 3, 4)"), ("(1,2),(2,1)", r"(1,2) \text{ and } (2,1)"),
        ("(1,2),(2,1)", r"(1,2), (2,1)."), ("(a,b,c)=(1,2,3)", "(1,2,3)"), ("(4,-7)", "x=4, y=-7"), ("(4,-7)", r"x=4 \text{ and } y=-7"),
        ("(4,-7)", r"\langle 4,-7\rangle"), (r"(\sqrt{8}, 1)", r"(2\sqrt{2}, 1)"), ("(1000,2)", "(1{,}000, 2)"), ("(4,-7)", r"\binom{}{}".replace(r"\binom{}{}", "(4,-7)")),
    ],
    "set": [
        ("3,5,9", "9, 5, 3"), ("3,5,9", r"\{3,5,9\}"), (r"\{3,5,9\}", "5,9,3"), (r"\{3,5,9\}", r"\left\{9,3,5\right\}"),
        ("3,5,9", r"3, 5 \text{ and } 9"), ("3,5,9", r"3, 5, \text{and } 9"), ("3,5", "x=3 or x=5"), ("3,5", r"x=3,\ x=5"),
        ("3,5", r"x_1=3, x_2=5"), (r"\{7\}", "7"), ("7", r"\{7\}"), (r"\varnothing", r"\{\}"), (r"\emptyset", r"\text{no solution}"),
        ("-1, \\frac12", "0.5, -1"), ("3,5", r"x \in \{5,3\}"), ("3,5", r"3;5"), ("3,5", "5 or 3"), (r"\{1,1,2\}", r"\{1,2\}"),
        (r"\mathbb{R}", r"(-\infty,\infty)"), (r"\mathbb{R}", r"x\in\mathbb{R}"), (r"\{(1,2),(3,4)\}", r"\{(3,4),(1,2)\}"), ("3, 5", "3,5"),
    ],
    "interval": [
        ("[0,4]", r"0\le x\le 4"), ("[0,4]", r"x\in[0,4]"), ("(0,4)", "0<x<4"), ("(0,4)", "4>x>0"), (r"[3,\infty)", r"x\ge 3"),
        (r"[3,\infty)", r"3 \leq x"), (r"(-\infty,-2]\cup[2,\infty)", r"x\le -2 \text{ or } x\ge 2"), (r"x>5", r"(5,\infty)"),
        (r"[3,\infty)", r"[3,+\infty)"), (r"(-\infty,-2]\cup[2,\infty)", r"[2,\infty)\cup(-\infty,-2]"), ("x>5", "5<x"), ("x>5", r"x \in (5, \infty)"),
        ("[0,4]", r"[0,1]\cup[1,4]"), ("[0,4]", r"\{x \mid 0\le x\le 4\}"), ("[0,4]", r"\{x : 0 \le x \le 4\}"), (r"\mathbb{R}\setminus\{1\}", r"(-\infty,1)\cup(1,\infty)"),
        (r"x\ne 1", r"\mathbb{R}\setminus\{1\}"), (r"(0,\frac{1}{2})", "(0,0.5)"), (r"(\sqrt{2}, 3]", r"\sqrt2<x\le3"), ("0<x<1", "1>x>0"),
        (r"(1,5)\cap(3,7)", "(3,5)"), (r"[1,2)\cup\{4\}", r"\{4\}\cup[1,2)"), ("a<b", "b>a"), ("x+y<3", "3>x+y"), (r"(0,1)\cup(1,2)", r"(0,2)\setminus\{1\}"),
    ],
    "equation": [
        ("y=3x-2", "3x-y-2=0"), ("y=3x-2", "y+2=3x"), ("y=3x-2", "3x-2"), ("9", "k=9"), ("k=9", "9"), ("x=9", "9=x"), ("9", "x=4+5=9"),
        ("x^2+y^2=25", "x^2+y^2-25=0"), ("x^2+y^2=25", "2x^2+2y^2=50"), ("2x+3y=6", r"\frac{x}{3}+\frac{y}{2}=1"), ("f(x)=2x", "2x"),
        ("2x", "f(x)=2x"), ("x=1,y=4", "y=4, x=1"), ("g(t)=t+1", "g(t)=1+t"), ("9", r"\text{The answer is } 9".replace(r"\text{The answer is } ", "")), ("A=9", "9"),
        ("9", r"\angle ABC = 9"), ("9", "AB = 9"), ("9", "P(A)=9"), ("9", "a_5=9"), ("(x-1)^2+y^2=4", "x^2-2x+y^2=3"), ("xy=1", r"y x = 1"),
        ("9", "|AB|=9"), ("9", "f(3) = 9"), ("y = \\frac{1}{2}x", "2y=x"), ("11", "5+6=11"), (r"x=\pm 3", "x=3, x=-3"), ("m = 4", r"m=2^2"),
    ],
    "matrix": [
        (r"\begin{pmatrix}1&0\\0&1\end{pmatrix}", r"\begin{bmatrix}1&0\\0&1\end{bmatrix}"), (r"\begin{pmatrix}1&0\\0&1\end{pmatrix}", r"\begin{pmatrix} 1 & 0 \\ 0 & \frac22 \end{pmatrix}"),
        (r"\begin{pmatrix}5\\-2\end{pmatrix}", "(5,-2)"), ("(5,-2)", r"\begin{pmatrix}5\\-2\end{pmatrix}"), (r"\begin{pmatrix}1/2&3\end{pmatrix}", r"\begin{pmatrix}0.5&3\end{pmatrix}"),
        (r"\begin{pmatrix}a&b\\c&d\end{pmatrix}", r"\left[\begin{array}{cc}a&b\\c&d\end{array}\right]"), (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\left(\begin{matrix}1\\2\end{matrix}\right)"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\\ \end{pmatrix}"), (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"A = \begin{pmatrix}1&2\\3&4\end{pmatrix}"),
    ],
    "units": [
        ("12", r"12\text{ cm}"), (r"12\text{ cm}", "12"), (r"12\text{ cm}", r"12 \mathrm{~cm}"), ("12", r"12\ \text{square units}"), (r"12\text{ cm}^2", "12"), ("12", "12 cm"),
        (r"12\text{ cm}^2", r"12\text{ square centimeters}"), (r"30\text{ minutes}", r"30\text{ min}"), ("6\\pi", r"6\pi\text{ m}"), (r"5\text{ km/h}", r"5\text{ kilometers per hour}"),
        ("7", r"7\text{ apples}"), (r"7\text{ apples}", "7"), ("9.8", r"9.8\,\mathrm{m/s^2}"), (r"20\text{ mph}", r"20\text{ miles per hour}"), ("3", "3 units"), (r"45\text{ feet}", r"45\text{ ft}"),
    ],
    "currency": [
        (r"\$40", "40"), ("40", r"\$40"), (r"\$40", r"40\text{ dollars}"), (r"\$40.00", r"\$40"), (r"\$2{,}500", "2500"), ("2500", r"\$2,500.00"), (r"\$1.5", r"\$1.50"), ("40", r"40\$"),
        ("7.5", r"\$7.50"), ("40", r"\text{\$40}"), (r"30\text{ cents}", "30"), (r"€5", "5"),
    ],
    "percent": [
        (r"35\%", "35%"), (r"35\%", "35"), (r"35\%", "0.35"), (r"35\%", r"\frac{7}{20}"), ("35", r"35\%"), ("0.35", r"35\%"), (r"35\%", r"35\text{ percent}"), (r"12\frac12\%", r"12.5\%"), (r"\frac{7}{20}", r"35\%"),
    ],
    "degree": [
        (r"60^\circ", "60"), ("60", r"60^{\circ}"), (r"60^\circ", r"60 \text{ degrees}"), (r"60^\circ", "60°"), (r"60^{\circ}", r"\frac{120}{2}^\circ"), (r"60^\circ", r"\angle A = 60^\circ"), ("60", r"60\degree"),
    ],
    "mixed_number": [
        (r"\frac{7}{3}", r"2\frac{1}{3}"), (r"\frac{7}{3}", r"2\tfrac13"), (r"2\frac13", "7/3"), (r"\frac{7}{3}", "2 1/3"), (r"-\frac{7}{3}", r"-2\frac{1}{3}"), ("2.75", r"2\frac{3}{4}"), (r"\frac{7}{3}", r"2 \frac{1}{3}"), (r"\frac{5}{2}", "2½"),
    ],
    "repeating_decimal": [
        (r"\frac{5}{9}", r"0.\overline{5}"), (r"0.\overline{27}", r"\frac{3}{11}"), (r"0.1\overline{6}", r"\frac16"), (r"\frac{5}{9}", r"0.\dot{5}"), (r"\frac{5}{9}", r"0.555\ldots"), (r"\frac{5}{9}", "0.5555..."), ("1", r"0.\overline{9}"), (r"2.\overline{3}", "7/3"),
    ],
    "scientific": [
        (r"5 \times 10^{6}", "5000000"), ("5e6", r"5\cdot10^6"), (r"5 \times 10^{6}", "5,000,000"), (r"2.5\times10^{-3}", "0.0025"), (r"1.2 \times 10^{30}", r"12 \times 10^{29}"), ("1e-9", "10^{-9}"), (r"6.1 \times 10^3", "6100"), ("5e6", "5E6"),
    ],
    "thousands": [
        ("45678", "45,678"), ("45,678", "45678"), ("45678", r"45{,}678"), ("45678", r"45\,678"), ("45678", r"45\!,678"), ("45678", "45 678"), ("1,000,000", "10^6"), ("(1,500, 2,500)", "(1500,2500)"), ("45,678", "45,678.0"), (r"45,\!678", "45678"), ("-45,678", "-45678"),
    ],
    "time_ratio": [
        ("4:30", r"4{:}30"), ("4:30", "4 : 30"), (r"4:30\text{ a.m.}", r"4{:}30 \text{ AM}"), ("5:7", r"5 : 7"), ("5:7", "10:14"), ("5:7", r"5\colon7"), ("2:3:4", "2 : 3 : 4"), (r"1:\sqrt{2}", r"\sqrt2:2"), (r"4:30\text{ a.m.}", "4:30"), ("5:7", r"5\text{:}7"),
        (r"10\text{ a.m.}", r"10\text{ AM}"), (r"\text{Friday}", "Friday"), (r"\text{Friday}", r"\textbf{Friday}"), (r"\text{July}", r"\text{july}"),
    ],
    "base": [
        ("402_5", "402_{5}"), ("402_5", "402"), ("402_5", r"402_{\text{five}}"), ("1A_{16}", "1A_{16}"), ("402_5", r"(402)_5"), ("402_5", r"402_\text{five}"), (r"1A_{16}", r"\text{1A}_{16}"),
    ],
    "choice": [
        ("B", "(B)"), ("B", r"\text{(B)}"), ("B", r"\textbf{B}"), (r"\text{(B)}", "B"), (r"\textbf{(B)}", "(B)"), ("B", r"\text{Choice B}"), ("B", r"\text{B}."), ("B", r"\textbf{(B) } 17"), ("A, C", r"\text{A and C}"), ("A, C", "C, A"), ("A, C", r"\text{A}, \text{C}"), ("B", r"\mathrm{(B)}"), ("B", r"\text{(B)}\ 17"), ("B", r"B)"), ("B", r"\mathbf{B}"), ("17", r"\text{(B)}\ 17"), ("A,C", "AC".replace("AC", "A,C")), ("B", r"\boxed{B}"), ("B", "B."), ("B", r"\text{option (B)}"),
    ],
    "text": [
        (r"\text{Yes}", "Yes"), ("Yes", r"\text{yes}"), (r"\text{yes}", "YES"), (r"\text{blue whale}", r"\text{Blue whale}"), (r"\text{blue whale}", r"\mathrm{blue\ whale}"), ("odd", r"\text{odd}"), (r"\text{odd}", "odd"), (r"\text{Alice}", r"\textit{Alice}"), ("Alice", r"\text{Alice}."), ("True", r"\text{true}"), (r"\infty", r"+\infty"), (r"-\infty", r"\text{negative infinity}"), (r"\text{neither}", "neither"), (r"\text{ellipse}", r"\text{an ellipse}"), (r"\text{ellipse}", r"\text{Ellipse}"),
    ],
    "plus_minus": [
        (r"\pm 4", "4,-4"), ("4,-4", r"\pm4"), (r"\pm\sqrt{3}", r"\sqrt{3}, -\sqrt{3}"), (r"1\pm\sqrt{5}", r"1+\sqrt5, 1-\sqrt5"), (r"1\pm\sqrt{5}", r"\{1-\sqrt5,1+\sqrt5\}"), (r"\frac{3\pm\sqrt{5}}{2}", r"x=\frac{3\pm\sqrt5}{2}"), (r"\pm i", "i, -i"), (r"\frac{3\pm\sqrt{5}}{2}", r"\frac{3+\sqrt{5}}{2}, \frac{3-\sqrt{5}}{2}"), ("0, \\pm 4", "-4, 0, 4"), (r"\pm 4", r"x = 4 \text{ or } x = -4"),
    ],
    "combinatorics": [
        ("720", "6!"), (r"\binom{8}{3}", "56"), ("56", r"{8 \choose 3}"), ("56", r"\binom83"), ("56", r"\dbinom{8}{5}"), (r"\frac{1}{\binom{6}{2}}", r"\frac1{15}"), (r"\frac{6!}{3!}", "120"), (r"50!", r"50 \cdot 49!"), (r"2^{10}-1", "1023"), ("n!", r"n \cdot (n-1)!"), (r"\binom{2n}{n}", r"\frac{(2n)!}{n!^2}"), (r"\binom{2n}{n}", r"\frac{(2n)!}{(n!)^2}"),
    ],
    "infinite_set": [
        (r"k\pi, k\in\mathbb{Z}", r"n\pi, n \in \mathbb{Z}"), (r"x \equiv 2 \pmod{5}", r"x=5k+2"), (r"x \equiv 2 \pmod{5}", r"x \equiv 7 \pmod 5"), (r"\{3k : k\in\mathbb{Z}\}", r"\{3n \mid n\in\mathbb{Z}\}"), (r"\frac{\pi}{4}+2k\pi, k\in\mathbb{Z}", r"x=\frac{\pi}{4}+2n\pi, n\in\mathbb{Z}"), (r"\{2k+1: k\in\mathbb{Z}\}", r"\{2k-1:k\in\mathbb{Z}\}"), (r"x=\frac{\pi}{6}+k\pi, k\in\mathbb{Z}", r"\frac{7\pi}{6}+k\pi,\ k \in \mathbb{Z}"), (r"1,2,\ldots,9", r"1, 2, \dots, 9"),
    ],
    "unicode": [
        (r"2\sqrt{3}", "2√3"), (r"\pi/2", "π/2"), ("x^3", "x³"), (r"x\ge2", "x ≥ 2"), ("-8", "－8"), ("12", "１２"), (r"\frac{3}{4}", "¾"), (r"5\times 7", "35"), (r"\infty", "∞"), ("a_2", "a₂"), (r"\alpha", "α"), (r"x\ne1", "x≠1"), (r"[0,\infty)", "[0,∞)"), (r"60^\circ", "60°"), (r"\{1,2\}", "｛1，2｝"), (r"A\cup B", "A∪B"), ("x^{10}", "x¹⁰"), (r"\pm 1", "±1"),
    ],
    "latex_style": [
        (r"\frac{3}{8}", r"\displaystyle\frac{3}{8}"), ("8", r"\mathbf{8}"), ("8", r"\color{blue}{8}"), ("8", r"\textcolor{blue}{8}"), ("8", r"\bf 8"), (r"\frac{3}{8}", r"\cfrac{3}{8}"), ("8", r"\underline{8}"), ("8", r"\(8\)"), ("8", r"8\,"), ("(1,2)", r"\bigl(1,2\bigr)"), ("8", r"\fbox{8}"), ("8", r"\hspace{1em}8"), (r"\frac{3}{8}", r"\\frac{3}{8}"), ("x+1", r"{x}+{1}"), ("8", r"~8~"), ("8", r"\;8\;"), ("8", "**8**".strip("*")), (r"\sqrt{5}", r"\sqrt5"), (r"2x", r"2\,x"), ("8", r"\phantom{x}8"), ("8", r"\ensuremath{8}"), ("8", r"\mbox{8}"),
    ],
    "gold_format": [
        ("$8$", "8"), (r"\boxed{8}", "8"), ("#### 8", "8"), (r"\(8\)", "8"), (r"\[ \frac{1}{2} \]", "1/2"), ("  8 ", "8"), ("-1./4", r"-\frac14"), ("-5./2", "-2.5"), ("8.", "8"), (r"x \in [1,2]", "[1,2]"), (r"3 \text{ or } 4", "4, 3"), ("$\\frac{1}{2}$", "0.5"), (r"The value is \boxed{8}.", "8"),
    ],
    "heavy": [(r"2^{3^{15}}", r"2^{3^{15}}+0"), (r"3^{2^{21}}", r"9^{2^{20}}"), (r"10^{10^{10}}", r"10^{10^{10}}"), (r"2^{5000}", r"4^{2500}"), (r"1000!", r"1000 \cdot 999!")],
}

WRONG = {
    "integer": [
        ("17", "18"), ("17", "71"), ("17", "-17"), ("17", "1.7"), ("17", "170"), ("17", r"\frac{17}{2}"), ("17", "17-"), ("17", "1 7"), ("0", r"\infty"), ("17", "17, 18"), ("1000000", "1000001"), ("17", "0.17"), ("17", r"17^2"), ("17", "16.9999999999"), ("17", "17.0000000001"), ("99999999999999999999", "99999999999999999998"), ("17", "seventeen million"), ("17", r"17\pi"), ("17", "17i"), ("17", "17x"), ("123456789012345678901234567890", "123456789012345678901234567891"), ("5", r"\emptyset"),
    ],
    "fraction": [
        (r"\frac{7}{12}", r"\frac{12}{7}"), (r"\frac{7}{12}", "7"), (r"\frac{7}{12}", "12"), (r"\frac{7}{12}", "7.12"), (r"\frac{7}{12}", "0.58"), (r"\frac{7}{12}", r"-\frac{7}{12}"), (r"\frac{7}{12}", r"\frac{7}{13}"), (r"\frac{7}{12}", "712"), (r"\frac{p}{q}", "pq"), (r"\frac{x+1}{3}", r"x+\frac13"), (r"\frac{1}{3001!}", r"\frac{1}{3002!}"), (r"\frac{7}{12}", r"\frac{70000001}{120000000}"), (r"\frac{a}{bc}", "a/b c".replace(" ", "*")),
    ],
    "decimal": [
        ("1.25", "1.26"), ("1.25", "1.2"), ("1.25", "125"), ("1.25", "12.5"), (r"\frac13", "0.3333"), (r"\sqrt2", "1.414"), (r"\pi", "3.1416"), ("0.5", "0.05"), (r"\frac{2}{3}", "0.667"), (r"\frac{1}{8}", "0.13"), ("0.00001", "0.00002"), ("0.12345678901", "0.12345678902"), (r"\frac{1}{3}", "0.33333333339"), (r"e", "2.71828"), ("0.125", "0.12500000001"),
    ],
    "radical": [
        (r"5\sqrt{3}", r"3\sqrt{5}"), (r"5\sqrt{3}", r"5+\sqrt{3}"), (r"5\sqrt{3}", "5"), (r"5\sqrt{3}", "8.66"), (r"5\sqrt{3}", r"\sqrt{15}"), (r"\sqrt{2}", r"\sqrt[3]{2}"), (r"2-\sqrt3", r"\sqrt3-2"), (r"2-\sqrt3", r"2+\sqrt3"), (r"\sqrt{10001}", "100.005"), (r"\sqrt{5}-1", r"\sqrt{5-1}"), (r"\sqrt2+\sqrt3", r"\sqrt5"), (r"x", r"\sqrt{x^2}"), (r"3\sqrt{13}", "3"), (r"\sqrt{x+1}", r"\sqrt{x}+1"), (r"\sqrt2+10^{-30}", r"\sqrt2"),
    ],
    "algebra": [
        ("x^2-9", "x^2+9"), ("x^2-9", "(x-3)^2"), ("x^2-9", "x^2-8"), ("2a+3b", "3a+2b"), ("2n+1", "2n-1"), ("x^3y", "xy^3"), ("x", "X"), ("ab", "a+b"), ("x_2", "x^2"), ("x_2", "2x"), ("2^{n+1}", "2^n+1"), ("n^2", "2n"), ("(a+b)^2", "a^2+b^2"), (r"\frac{1}{x+y}", r"\frac1x+\frac1y"), ("a^{b^c}", "(a^b)^c"), ("x", "-x"), ("x", "|x|"), ("x+1", "x"), (r"\alpha", r"\beta"), (r"\alpha", "a"), ("x^2", "x2"), (r"n!", r"(n+1)!"), (r"(-1)^n", r"(-1)^{n+1}"), ("x^2+10^{-40}", "x^2"), ("2x^2+C", "2x^2"),
    ],
    "transcendental": [
        (r"\ln 6", r"\ln 2 \cdot \ln 3"), (r"\ln 6", "1.79"), (r"\frac{\pi}{6}", r"\frac{6}{\pi}"), (r"\frac{\pi}{6}", "30"), (r"\pi", "3"), (r"e^{-1}", "-e"), (r"\sin x", r"\cos x"), (r"\sin 2x", r"2\sin x"), (r"\log_2 5", r"\log_5 2"), (r"e^x", "ex"), (r"\pi^2", r"2\pi"), (r"\sin x^2", r"\sin^2 x"), (r"3^{20}", "3486784402"), ("e^{\\pi\\sqrt{163}}", "262537412640768744"), (r"\ln 5", r"\ln -5"), (r"\frac{\pi}{6}", r"\frac{\pi}{6}^\circ"), (r"\cos 60", r"\frac12"),
    ],
    "complex": [("2-5i", "2+5i"), ("2-5i", "-3"), ("2-5i", "2"), ("2-5i", "5-2i"), ("i", "-i"), ("i", "1"), (r"\frac{3+i}{2}", r"3+\frac{i}{2}"), ("2i,-2i", "2i"), ("2-5i", "(2,-5)"), ("5", "5i")],
    "tuple": [
        ("(4,-7)", "(-7,4)"), ("(4,-7)", "(4,7)"), ("(4,-7)", "4"), ("(4,-7)", "-3"), ("(4,-7)", "(4,-7,0)"), ("(1,2),(2,1)", "(1,2)"), ("(1,2,3)", "(1,2)"), ("(1,2,3)", "(3,2,1)"), ("(1,2),(2,1)", "(1,1),(2,2)"), ("(4,-7)", "4-7"), ("(4,-7)", r"\{4,-7\}"), ("(1,2)", "1/2"), ("(1,2,3)", "123"), ("(4,-7)", "x=-7, y=4"), ("(0,1)", "(0,1,1)"), ("(1,2)", "[1,2]"), ("(1,2),(2,1)", "(1,2),(2,1),(0,3)"),
    ],
    "set": [
        ("3,5,9", "3,5"), ("3,5,9", "3,5,9,11"), ("3,5,9", "3"), ("3,5,9", "17"), ("3,5", "(3,5)"), ("3,5", "35"), ("3,5", "3.5"), ("3,5", "8"), (r"\{3,5\}", r"\{3\}"), (r"\{3,5\}", r"\{-3,5\}"), (r"\emptyset", "0"), (r"\{0\}", r"\emptyset"), (r"\mathbb{R}", r"\mathbb{Z}"), (r"\mathbb{R}", r"\mathbb{Q}"), ("5", "3,5"), ("5", "5,5,6"), ("3,5", "x=3"), (r"\{1,2\}", r"[1,2]"), ("3,5", "3 or 6"), ("1,1,2", "1,2,2"),
    ],
    "interval": [
        ("[0,4]", "(0,4)"), ("[0,4]", "[0,4)"), ("[0,4]", "0<x<4"), ("[0,4]", "[0,5]"), ("[0,4]", "4"), ("[0,4]", "0,4"), ("x>5", "x<5"), ("x>5", r"x\ge5"), ("x>5", "5"), ("x>5", r"(-\infty,5)"), (r"(-\infty,-2]\cup[2,\infty)", "[-2,2]"), (r"(-\infty,-2]\cup[2,\infty)", r"[2,\infty)"), (r"[3,\infty)", r"(3,\infty)"), ("(0,4)", "(4,0)"), (r"(0,1)\cup(1,2)", "(0,2)"), ("a<b", "a>b"), ("x+y<3", "x+y>3"), (r"x\ne1", "x=1"), (r"x\ne 1", "1"), ("(0,4)", r"\{0,4\}"), ("x>5", "y>5"), ("-1<x<1", "x<1"), ("x>5", "x>5, x<2"),
    ],
    "equation": [
        ("y=3x-2", "y=3x+2"), ("y=3x-2", "y=2x-3"), ("y=3x-2", "3x+2"), ("y=3x-2", "x=3y-2"), ("9", "9=8"), ("9", "8=9"), ("9", "x=8=9"), ("9", "x=9=8"), ("9", r"x\ne9"), ("9", "x>9"), ("9", "x=y"), ("9", "x=x"), ("x=9", "x=-9"), ("x=9", "y=8"), ("x^2+y^2=25", "x^2+y^2=5"), ("x^2+y^2=25", "25"), ("x^2+y^2=25", "x^2-y^2=25"), ("x=1,y=4", "x=4,y=1"), ("x=1,y=4", "x=1"), ("f(x)=2x", "f(x)=3x"), ("9", "3x=27x"), ("xy=1", "0=0"), ("xy=1", "x=x"), ("9", r"x \approx 9.1"), ("9", "2x = 18"), ("x=9", "y=9"), ("4", "2+2=4=5"), ("a=1, b=2", "2, 1"),
    ],
    "matrix": [
        (r"\begin{pmatrix}1&0\\0&1\end{pmatrix}", r"\begin{pmatrix}0&1\\1&0\end{pmatrix}"), (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"), (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"), (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "1"), (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "-2"), (r"\begin{pmatrix}1\\2\end{pmatrix}", "(2,1)"), (r"\begin{pmatrix}1\\2\end{pmatrix}", "1,2"), (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"), (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "(1,2,3,4)"), (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{vmatrix}1&2\\3&4\end{vmatrix}"),
    ],
    "units": [
        (r"12\text{ cm}", r"12\text{ m}"), (r"12\text{ cm}", r"12\text{ cm}^2"), (r"12\text{ cm}", r"13\text{ cm}"), ("12", r"1.2\text{ dm}"), (r"30\text{ minutes}", r"30\text{ hours}"), ("6\\pi", r"6\text{ m}"), (r"7\text{ apples}", r"7\text{ pears}"), ("7", r"7\text{ or } 8"), ("7", r"7\text{ is wrong}"), ("7", r"\text{not } 7"), (r"5\text{ m}", r"5\text{ km}"), (r"5\text{ kg}", r"5\text{ g}"), ("7", r"7\text{ unless } 8"), ("7", r"7 \text{ million}"), ("7", r"7\text{ dozen}"),
    ],
    "currency": [(r"\$40", r"\$4"), (r"\$40", r"40\text{ cents}"), (r"\$40", r"\$400"), (r"\$40", "€40"), (r"\$40", r"\$40.01"), (r"\$0.40", r"\$40"), (r"30\text{ cents}", r"\$30"), (r"\$2{,}500", r"\$25"), ("40", r"\$-40"), ("0.5", r"50\text{ cents}"), ("50", r"\$0.50")],
    "percent": [(r"35\%", "3.5"), (r"35\%", "350"), ("35", "0.35"), ("0.35", "35"), (r"35\%", r"0.35\%"), (r"35\%", r"36\%"), ("35", r"0.35\%"), ("3", r"300\%".replace("300", "30")), (r"35\%", r"3500\%")],
    "degree": [(r"60^\circ", r"61^\circ"), (r"60^\circ", r"60\pi"), (r"60^\circ", "1.047"), ("60", r"6^\circ"), (r"60^\circ", r"60\%"), (r"60^\circ", r"\frac{\pi}{4}"), ("60", r"60^2")],
    "mixed_number": [(r"\frac{7}{3}", r"2\frac{1}{4}"), (r"\frac{2}{3}", r"2\frac{1}{3}"), (r"\frac{7}{3}", r"3\frac{1}{3}"), (r"2\frac13", r"\frac{2}{3}"), (r"\frac{7}{3}", r"21/3"), (r"-\frac{7}{3}", r"2\frac13"), (r"\frac{5}{3}", r"-2\frac{1}{3}")],
    "repeating_decimal": [(r"\frac{5}{9}", "0.5"), (r"\frac{5}{9}", "0.56"), (r"0.\overline{27}", "0.27"), (r"0.\overline{27}", r"0.2\overline{7}"), (r"0.\overline{27}", r"0.\overline{72}"), (r"0.1\overline{6}", r"0.\overline{16}"), (r"\frac{5}{9}", r"0.\overline{6}"), (r"\pi", r"3.14159\ldots"), (r"\frac{5}{9}", r"0.556\ldots")],
    "scientific": [(r"5 \times 10^{6}", r"5 \times 10^{5}"), (r"5 \times 10^{6}", r"5.1 \times 10^{6}"), (r"5 \times 10^{6}", "5"), ("5e6", "5e-6"), (r"2.5\times10^{-3}", r"2.5\times10^{3}"), ("1e-9", "0"), ("1e-9", "1e-10"), (r"5 \times 10^{6}", "56"), (r"1.2 \times 10^{30}", r"1.2 \times 10^{31}")],
    "thousands": [("45678", "45,67"), ("45678", "4,5678"), ("45678", "45"), ("45678", "45.678"), ("45678", "45,679"), ("456", "4,5,6"), ("45,678", "45, 678"), ("1,234", "1;234"), ("1000", "1,0000")],
    "time_ratio": [("4:30", "4:31"), ("4:30", "430"), ("4:30", "4.30"), ("4:30", "4.5"), ("4:30", "2:15"), (r"4:30\text{ a.m.}", r"4:30\text{ p.m.}"), ("5:7", "7:5"), ("5:7", "5.7"), ("5:7", "57"), ("5:7", "12"), ("2:3:4", "2:3"), ("2:3:4", "4:3:2"), ("12:30", "0"), (r"\text{Friday}", r"\text{Saturday}"), (r"\text{Friday}", r"\text{Friday or Saturday}"), ("5:7", "5:8"), ("0:0:1", "0:7:1")],
    "base": [("402_5", "402_6"), ("402_5", "403_5"), ("402_5", "4025"), ("402_5", "102"), ("1A_{16}", "1B_{16}"), ("1A_{16}", "1A_{17}"), ("402_5", "402.5"), ("402", "402_5")],
    "choice": [
        ("B", "A"), ("B", r"\text{(A)}"), ("B", "A, B"), ("B", r"\text{A or B}"), ("B", r"\text{not B}"), ("B", r"\text{neither A nor B}"), ("A, C", "A"), ("A, C", "A, B"), ("A, C", "A, C, D"), ("B", r"\text{(A) } 17"), ("B", r"\textbf{(C)}"), ("B", "b^2"), ("B", "AB"), ("B", r"\text{Bob}"), ("B", r"\text{A and B}"), ("B", "8"), ("E", "e"), ("B", r"\text{all of the above}"), ("B", "B+C"), ("17", r"\text{(B)}\ 18"), ("B", r"B \text{ or } C"),
    ],
    "text": [
        (r"\text{Yes}", "No"), (r"\text{Yes}", r"\text{yes and no}"), (r"\text{Yes}", "Y"), (r"\text{odd}", r"\text{even}"), (r"\text{odd}", "ddo"), ("odd", "dod"), (r"\text{Alice}", r"\text{Bob}"), (r"\text{Alice}", "A"), (r"\text{blue whale}", r"\text{whale}"), (r"\text{Alice}", r"\text{Alice or Bob}"), (r"\text{Alice}", r"\text{not Alice}"), (r"\infty", r"-\infty"), (r"\infty", "0"), (r"\infty", "1000000000"), (r"\text{True}", r"\text{False}"), ("even", "veen"), (r"\text{ellipse}", r"\text{circle}"), ("7", r"\text{seventeen}"), ("6", r"\text{six or seven}"),
    ],
    "plus_minus": [(r"\pm 4", "4"), (r"\pm 4", "-4"), (r"\pm 4", r"\pm 5"), (r"\pm 4", "0"), ("4", r"\pm 4"), (r"1\pm\sqrt5", r"1+\sqrt5"), (r"1\pm\sqrt5", r"1\pm\sqrt3"), (r"1\pm\sqrt5", r"-1\pm\sqrt5"), (r"\pm 4", "4,-5"), ("0, \\pm 4", r"\pm 4")],
    "combinatorics": [("720", "5!"), ("720", "7!"), ("720", "6!!"), (r"\binom{8}{3}", r"\frac{8}{3}"), (r"\binom{8}{3}", "24"), (r"\binom{8}{3}", r"\binom{8}{4}"), ("50!", "49!"), ("50!", "50"), (r"\frac{6!}{3!}", "2!"), (r"\binom{2n}{n}", "2"), (r"2500!", r"2500!+1"), (r"2^{4000}", r"2^{4000}+1")],
    "infinite_set": [(r"k\pi, k\in\mathbb{Z}", r"2k\pi, k\in\mathbb{Z}"), (r"k\pi, k\in\mathbb{Z}", r"\pi"), (r"k\pi, k\in\mathbb{Z}", r"k\pi+1, k\in\mathbb{Z}"), (r"x \equiv 2 \pmod{5}", r"x \equiv 3 \pmod 5"), (r"x \equiv 2 \pmod{5}", "2"), (r"x \equiv 2 \pmod{5}", r"x=10k+2"), (r"\{3k : k\in\mathbb{Z}\}", r"\mathbb{Z}"), (r"1,2,\ldots,9", "1,2,9"), (r"1,2,\ldots,9", r"1,2,\ldots,8"), (r"\{3k : k\in\mathbb{Z}\}", r"\{3k : k\in\mathbb{N}\}"), (r"\{3k : k\in\mathbb{Z}\}", "3k")],
    "unicode": [("x^3", "x₃"), ("12", "１３"), (r"x\ge2", "x≤2"), ("5", "⁵"), (r"\pi", "∏"), (r"\frac34", "¼"), ("-8", "８")],
    "hack": [
        ("7", ""), ("7", " "), ("7", "x"), ("7", "answer"), ("7", r"\text{the gold answer}"), ("7", "1,2,3,4,5,6,7,8,9"), ("7", "7 or 8"), ("7", "6=7"), ("7", r"\frac{7x}{0}"), ("7", r"7\cdot\frac{0}{0}"), ("7", r"\infty-\infty+7"), ("7", "7=7=8"), ("7", r"[7,7]\cup[8,8]"), ("7", "7;8"), ("7", "7/8"), ("7", "{}"), ("7", r"\{\}"), ("7", "()"), ("7", "+"), ("7", "="), ("7", "7?"), ("7", "7 7"), ("7", "n=n"), ("7", "x \\in \\mathbb{R}"), ("7", r"\mathbb{Z}"), ("7", r"(-\infty,\infty)"), ("7", r"7 \text{ or something else}"), ("7", r"\text{7 or 8}"), ("7", r"7 + \varepsilon"), ("7", r"7\pm 0.1"), ("7", r"\approx 7.3"), ("7", r"7\ldots"), ("7", r"x=7,y=8"), ("7", r"\frac{7}{1-1}"), ("7", r"7^{1/0}"), ("7", r"\log_1 7"), ("7", r"7 \mod 0"), ("7", "<7>"), ("7", r"\begin{pmatrix}7&7\\7&7\end{pmatrix}"), ("7", r"6<7"), ("7", r"x<7"), ("7", r"\{7, 8\}"), ("7", r"\max(6,7)"), ("x", "x=y"), ("a+b", "a"), ("abc", "cab+1"), ("7", r"\lim_{x \to 7} x"), ("7", r"7:1"), ("7", "0x7"), ("7", "None"), ("7", "null"), ("7", "inf"), ("0", "nan"), ("0", r"\frac{0}{0}"), ("1", r"\frac{\infty}{\infty}"), ("1", r"\frac{\sin^2 1+\cos^2 1-1}{\sin^2 1+\cos^2 1-1}"),
    ],
    "unevaluated": [
        ("5050", r"\sum_{k=1}^{100} k"), ("56088", "123*456"), ("56088", r"123 \times 456"), ("12", r"\gcd(24,36)"), ("72", r"\operatorname{lcm}(24,36)"), ("-2", r"\det\begin{pmatrix}1&2\\3&4\end{pmatrix}"), ("1", r"\int_0^1 2x\,dx"), ("1", r"\lim_{x\to0}\frac{\sin x}{x}"), ("120", r"\prod_{k=1}^5 k"), ("55", r"1+2+\cdots+10"), ("2", r"17 \bmod 5"), ("9", r"\max(3,9)"), ("2", r"\frac{d}{dx}2x"),
    ],
    "dos": [
        ("7", "9^{9^{9^{9^9}}}"), ("7", "(10^9)!"), ("7", r"\binom{10^{12}}{10^{11}}"), ("7", "1e888888888"), ("7", "(" * 300 + "7" + ")" * 300 + "+1"), ("7", "{" * 500), ("7", "9" * 2900), ("7", r"\frac{1}{" * 60 + "2" + "}" * 60), ("7", r"\sqrt{" * 100 + "2" + "}" * 100), ("7", "x^" * 200 + "x"), ("7", "((x+1)^{1000}+1)^{1000}"), ("7", "7!!!!!!!"), ("7", r"2^{2^{2^{2^{2^2}}}} - 2^{2^{2^{2^{2^2}}}} + 8"), (r"10^{10^{9}}", r"10^{10^{9}}+1"), ("7", r"0.1^{10^{15}}"), (r"\pi", r"\pi^{10^{9}}"), ("7", r"\sin(10^{10^{10}})"), ("7", r"\sum_{k=1}^{10^9} k"), ("x+1", r"(x+1)^{10^{12}}"), ("7", "+".join(["7"] * 390)), ("7", r"\ln(\ln(\ln(10^{10^{10}})))"), ("7", "|" * 400), ("7", ",".join(["7"] * 300)), ("7", r"e^{e^{e^{e^e}}}"), (r"\frac12", r"\frac{1}{9^{9^{9}}}"), ("7", r"\binom{x}{10^9}"), ("7", "\\" * 900), ("7", r"\text{" * 300),
    ],
}
