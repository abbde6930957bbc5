"""What people type (shell files and Python programs), and the packages behind them.

METHOD.sh, all.sh      the cells of the published table; most other shell files make another table
cells.sh, setup.sh     sourced by the others, not run
cells/                 behind the shell files: from settings to commands
results/               behind collect_results.py, compare_runs.py and select_run.py
labeling/              behind label.py, which label.sh runs
bench/                 behind benchmark.py
"""
