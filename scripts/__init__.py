"""What people type: shell files for the rows of tables, and Python programs. And what stands behind them.

METHOD.sh, all.sh      the cells of the published table; the other shell files make other tables
cells.sh, setup.sh     sourced by the others, not run
cells/                 behind the shell files: from settings to commands
results/               behind collect_results.py, compare_runs.py and select_run.py
labeling/              behind label.py, which label.sh runs
bench/                 behind benchmark.py
"""
