% Makes matlab_v6.mat and matlab_v7.mat: octave make_matlab_models.m
% Every number is a multiple of 1/8, so that the tests can state it exactly.
n = 3; K = 4; T = 2;
tResolution = K / T;
actFun = 'lrelu';
for k = 1:K
  Wcell{1, k} = reshape(1:n*n, n, n) / 8 + k;   % W(i,j) = (i + 3 (j - 1)) / 8 + k
  Bcell{1, k} = -(1:n)' / 8 - k;
end
inputBgEnc = 0; inputScaleFactor = -1; inputShift = 0;
trainAcc = 0.5; testAcc = NaN;
note = 'an unrelated variable'; option.nested = {1, {2}};
names = {'Wcell', 'Bcell', 'actFun', 'tResolution', 'T', 'inputBgEnc', 'inputScaleFactor', ...
         'inputShift', 'trainAcc', 'testAcc', 'note', 'option'};
save('-v6', 'matlab_v6.mat', names{:});
save('-v7', 'matlab_v7.mat', names{:});
